"""What is learned, apart from the radio: the devices' local rules, the server's step, and who takes part."""
