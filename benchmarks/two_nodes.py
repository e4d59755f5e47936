"""Train on two simulated nodes, kill a process, and compare the results with uninterrupted runs.

The nodes are two network namespaces of this machine, joined by a virtual Ethernet cable, which is their only
connection. Both use the same run folder, as nodes with a shared disk do. DDP and FSDP are compared with a single
process. Then a process of the second node is killed with SIGKILL. The first node must exit with a one-line error, and
the run resumed with ``--resume auto`` must end bit-equal to an uninterrupted run. So must a run restarted by
`torchrun --max-restarts`.

    python -m benchmarks.two_nodes --json docs/results/distribution_two_nodes.json

Needs Linux, root and `ip` (iproute2). If namespaces cannot be created, it prints a message and exits with code 0.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks import processes
from benchmarks.report import Rows, parser, show, write
from benchmarks.world_size import train
from hjepa.config import load_config
from hjepa.runs.checkpoint import read_header
from hjepa.runs.sharded import STATE

ADDRESSES = ("10.203.0.1", "10.203.0.2")
PORT = 29500
CABLE = ("hjepa0", "hjepa1")
# Long enough to be killed before the end.
LONG = {"training__epochs": 6, "checkpoint__save_every_steps": 2, "checkpoint__save_frequency": 100}
KILLED_FROM = 8
PATIENCE = 240


class NoNamespacesError(Exception):
    """Network namespaces cannot be created on this machine or by this user."""


def _ip(*arguments: str) -> None:
    try:
        subprocess.run(["ip", *arguments], capture_output=True, text=True, check=True)
    except FileNotFoundError:
        raise NoNamespacesError("the program ip is missing (package iproute2)") from None
    except subprocess.CalledProcessError as error:
        raise NoNamespacesError(f"ip {' '.join(arguments)}: {error.stderr.strip()}") from None


@contextlib.contextmanager
def two_namespaces() -> Iterator[tuple[str, str]]:
    """Create two namespaces with an address each, joined by a virtual cable, and remove them on exit.

    Raises:
        NoNamespacesError: they cannot be created.
    """
    names = (f"hjepa-{os.getpid()}-0", f"hjepa-{os.getpid()}-1")
    made: list[str] = []
    try:
        for name in names:
            _ip("netns", "add", name)
            made.append(name)
        _ip("link", "add", CABLE[0], "netns", names[0], "type", "veth", "peer", "name", CABLE[1], "netns", names[1])
        for name, end, address in zip(names, CABLE, ADDRESSES, strict=True):
            _ip("-n", name, "address", "add", f"{address}/30", "dev", end)
            _ip("-n", name, "link", "set", end, "up")
            _ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in made:
            _ip("netns", "delete", name)


class Nodes:
    """Both nodes of a run, each with its own `torchrun` and one process.

    Args:
        names: names of the namespaces.
        folder: the run folder, used by both nodes.
        given: configuration keys.
        restarts: how often `torchrun` restarts failed processes.
    """

    def __init__(self, names: tuple[str, str], folder: Path, given: dict[str, Any], restarts: int = 0) -> None:
        self.logs = [folder.with_name(f"{folder.name}-node{rank}.txt") for rank in (0, 1)]
        command = processes.train_command(folder, given, "--resume", "auto")
        self.agents: list[subprocess.Popen[bytes]] = []
        for rank, (name, end, address) in enumerate(zip(names, CABLE, ADDRESSES, strict=True)):
            # fmt: off
            options = [
                "--nnodes", "2", "--node-rank", str(rank), "--max-restarts", str(restarts), "--rdzv-backend", "c10d",
                "--rdzv-endpoint", f"{ADDRESSES[0]}:{PORT}", "--rdzv-id", folder.name, "--local-addr", address,
                # Both namespaces have this machine's host name, so `is_host` says which node hosts the rendezvous.
                "--rdzv-conf", f"is_host={rank == 0},join_timeout=120,last_call_timeout=2",
            ]
            # fmt: on
            with self.logs[rank].open("wb") as log:
                self.agents.append(
                    subprocess.Popen(
                        ["ip", "netns", "exec", name, *processes.torchrun(1, *options), *command],
                        env=processes.surroundings(GLOO_SOCKET_IFNAME=end),
                        stdout=log,
                        stderr=subprocess.STDOUT,
                    )
                )

    def wait(self) -> list[int]:
        """Wait for both nodes. Returns their exit codes."""
        return [agent.wait(PATIENCE) for agent in self.agents]

    def kill_a_process(self) -> int:
        """Send SIGKILL to the training process of the second node. Returns its PID."""
        agent = self.agents[1].pid
        for child in Path(f"/proc/{agent}/task/{agent}/children").read_text().split():
            if b"\0hjepa\0train\0" in Path(f"/proc/{child}/cmdline").read_bytes():
                os.kill(int(child), signal.SIGKILL)
                return int(child)
        raise SystemExit(f"node 1 has no training process: {self.text(1)[-2000:]}")

    def text(self, rank: int) -> str:
        """The output of a node so far."""
        return self.logs[rank].read_text(errors="replace")

    def close(self) -> None:
        """Stop the `torchrun` processes that are still running."""
        for agent in self.agents:
            if agent.poll() is None:
                agent.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    agent.wait(30)
            if agent.poll() is None:
                agent.kill()
                agent.wait()


def saved(folder: Path) -> int:
    """Step of the last checkpoint; -1 if there is none."""
    for path in (folder / "checkpoints" / "last.pth", folder / "checkpoints" / "last.sharded" / STATE):
        header = read_header(path)
        if header is not None:
            return header.step
    return -1


def whole(names: tuple[str, str], folder: Path, given: dict[str, Any]) -> None:
    """Train on two nodes to the end, from the start or from the last checkpoint."""
    with contextlib.closing(Nodes(names, folder, given)) as nodes:
        codes = nodes.wait()
        if any(codes):
            raise SystemExit(f"two nodes ended with {codes}: {nodes.text(0)[-3000:]}{nodes.text(1)[-3000:]}")


def killed(names: tuple[str, str], folder: Path, given: dict[str, Any], restarts: int = 0) -> dict[str, Any]:
    """Train on two nodes and kill the process of the second node before the end.

    Returns:
        Exit codes, error lines of the first node, seconds until both nodes exited, and the step of the last checkpoint.
    """
    with contextlib.closing(Nodes(names, folder, given, restarts)) as nodes:
        until = time.monotonic() + PATIENCE
        while saved(folder) < KILLED_FROM:
            if time.monotonic() > until or any(agent.poll() is not None for agent in nodes.agents):
                raise SystemExit(f"no checkpoint to kill after: {nodes.text(0)[-3000:]}{nodes.text(1)[-3000:]}")
            time.sleep(0.005)
        nodes.kill_a_process()
        begun = time.monotonic()
        codes = nodes.wait()
        seconds = time.monotonic() - begun
        return {"codes": codes, "lines": processes.said(nodes.text(0)), "seconds": seconds, "saved": saved(folder)}


def measure(names: tuple[str, str], scratch: Path, strategies: tuple[str, ...]) -> dict[str, Any]:
    """Run all comparisons for all strategies."""
    rows: Rows = []
    ends: list[dict[str, Any]] = []
    train(scratch / "one", 1, "ddp", None)

    def note(strategy: str, what: str, against: str, folder: Path, other: Path) -> None:
        found = processes.compare(folder, other)
        equal = "yes" if found.pop("bit-equal") else "no"
        rows.append({"strategy": strategy, "run": what, "against": against, **found, "bit-equal": equal})
        print(f"{strategy}, {what}: done", flush=True)

    for strategy in strategies:
        plain, long = processes.keys(2, strategy), processes.keys(2, strategy, **LONG)
        whole(names, scratch / f"{strategy}-plain", plain)
        note(strategy, "two nodes", "one process", scratch / f"{strategy}-plain", scratch / "one")
        untouched, stopped, again = (scratch / f"{strategy}-{name}" for name in ("untouched", "stopped", "again"))
        whole(names, untouched, long)
        end = killed(names, stopped, long)
        ends.append({"strategy": strategy, **end})
        whole(names, stopped, long)
        note(strategy, "killed, resumed with --resume auto", "uninterrupted run", stopped, untouched)
        end = killed(names, again, long, restarts=1)
        if any(end["codes"]):
            raise SystemExit(f"torchrun did not restart the run: {end}")
        note(strategy, "killed, restarted by torchrun", "uninterrupted run", again, untouched)
    return {"runs": rows, "first node after the kill": ends}


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    given = parser(__doc__)
    options = given.parse_args(arguments)
    torch.set_num_threads(options.threads or 1)
    # SIGTERM must unwind the stack, so that the namespaces are removed.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # noqa: ARG005
    scratch = Path(tempfile.mkdtemp())
    try:
        with two_namespaces() as names:
            figures = measure(names, scratch, ("ddp",) if options.short else ("ddp", "fsdp"))
    except NoNamespacesError as error:
        print(f"two_nodes: network namespaces cannot be created, nothing measured: {error}")
        return
    finally:
        shutil.rmtree(scratch)
    print("largest absolute difference")
    show(figures["runs"])
    for end in figures["first node after the kill"]:
        print(f"{end['strategy']}: first node ended {end['seconds']:.1f} s after the kill: {' | '.join(end['lines'])}")
    write(options.json, "two_nodes", figures, load_config({}, processes.keys(2, "ddp")))


if __name__ == "__main__":
    main()
