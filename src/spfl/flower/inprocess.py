"""Flower without a network: nodes in this process, one after the other. For laptops and tests; needs no Ray."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import count

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from spfl.errors import SpflError, named
from spfl.flower.settings import Scalar

RUN_ID, SERVER_ID = 1, 0
FAILED = 1  # Flower's code of an error that an app raised is not public; any but 0 will do


class InProcessGrid(Grid):
    """`nodes` nodes that run `app`; node ids start at 1, so that node p + 1 is partition p.

    `node_data` says what data of its own each node brings: a folder, or `module:function`.
    An app that raises gives an error reply, as in a deployment. Not meant for several threads.
    """

    def __init__(
        self, app: ClientApp, run_config: Mapping[str, Scalar], nodes: int, node_data: Sequence[str] = ()
    ) -> None:
        self.app = app
        self._contexts = {
            partition + 1: Context(
                RUN_ID,
                partition + 1,
                {"partition-id": partition, "num-partitions": nodes} | own_data(node_data, partition),
                RecordDict(),
                dict(run_config),
            )
            for partition in range(nodes)
        }
        self._numbers, self._replies = count(1), dict[str, Message]()
        # Messages take their sender from the process, which Flower's own launchers set.
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = RUN_ID, SERVER_ID, 1

    def set_run(self, run: Run) -> None:
        """There is one run only; nothing to set."""

    @property
    def run(self) -> Run:
        return Run.create_empty(RUN_ID)

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Answer at once; `pull_messages` has the replies."""
        numbers = []
        for message in messages:
            number = str(next(self._numbers))
            message.metadata.__dict__["_message_id"] = number  # as Flower's own grids do
            self._replies[number] = self.answer(message)
            numbers.append(number)
        return numbers

    def answer(self, message: Message) -> Message:
        """The node's reply."""
        try:
            return self.app(message, self._contexts[message.metadata.dst_node_id])
        except Exception as error:  # whatever an app raises is the node's fault, not the run's
            said = str(error) if isinstance(error, SpflError) else named(error)
            return Message(Error(FAILED, said), reply_to=message)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self._replies.pop(number) for number in message_ids if number in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        return self.pull_messages(self.push_messages(messages))


def own_data(node_data: Sequence[str], node: int) -> dict[str, Scalar]:
    """What the node config of a node says of its own data; nothing when there are none."""
    return {"data": node_data[node]} if node_data else {}
