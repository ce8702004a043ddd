"""A study as LaTeX: tables with booktabs, pictures with pgfplots, and a document that shows them all."""
