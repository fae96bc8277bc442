"""A Slurm cluster of two nodes on this machine, for as long as a test needs it."""

from __future__ import annotations

import getpass
import os
import platform
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

COMMANDS = ("slurmctld", "slurmd", "sbatch", "squeue", "scontrol")

CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=1,sched_interval=2
ReturnToService=2
SlurmdTimeout=10
MpiDefault=none
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 RealMemory=4000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 RealMemory=4000
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
"""No munge is needed: all processes are of one user of one machine."""


def missing() -> list[str]:
    """The commands of Slurm that this machine lacks."""
    path = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])
    return [command for command in COMMANDS if shutil.which(command, path=path) is None]


class SlurmCluster:
    """The daemons of the cluster.

    Args:
        folder: Receives their files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "state").mkdir()
        for node in ("n1", "n2"):
            (folder / node).mkdir()
        self.conf = folder / "slurm.conf"
        host, user = platform.node().split(".")[0], getpass.getuser()
        self.conf.write_text(CONF.format(folder=folder, host=host, user=user, ports=_free_ports()))

    def start(self) -> None:
        """Start the daemons, and wait until both nodes are idle."""
        self._run("slurmctld", "-c")
        for node in ("n1", "n2"):
            self._run("slurmd", "-N", node)
        deadline = time.monotonic() + 60
        while self._run("sinfo", "--noheader", "--format=%t %D").split() != ["idle", "2"]:
            assert time.monotonic() < deadline, self._run("sinfo", "--Node", "--long")
            time.sleep(0.2)

    def kill_node(self, node: str) -> None:
        """End the daemon of a node and all it has started, as a loss of power does."""
        spool = self._folder / node
        jobs = {path.name.split("_")[1].split(".")[0] for path in spool.glob(f"{node}_*")}
        for process in self._processes():
            title = " ".join(process.cmdline())  # such as: slurmd -N n1, or slurmstepd: [12.batch]
            steps = any(title.startswith(f"slurmstepd: [{job}.") for job in jobs)
            if steps or title == f"slurmd -N {node}":
                _kill(process)

    def stop(self) -> None:
        """End all jobs and daemons."""
        while processes := self._processes():  # one that ends may have begun another
            for process in processes:
                _kill(process)

    def _processes(self) -> list[psutil.Process]:
        """The daemons, and the processes that watch over jobs, which outlive the daemons."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                of_slurm = process.name().startswith("slurm")
                if of_slurm and process.environ().get("SLURM_CONF") == str(self.conf):
                    found.append(process)
        return found

    def _run(self, *command: str) -> str:
        path = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])
        environment = {**os.environ, "PATH": path, "SLURM_CONF": str(self.conf)}
        return subprocess.run(
            command, env=environment, check=True, capture_output=True, text=True
        ).stdout


@contextmanager
def slurm_cluster(folder: Path) -> Iterator[SlurmCluster]:
    """Run a cluster inside the block."""
    cluster = SlurmCluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def _kill(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        for each in [*process.children(recursive=True), process]:
            with suppress(psutil.NoSuchProcess):
                each.kill()


def _free_ports() -> list[int]:
    sockets = [socket.socket() for _ in range(3)]
    for of in sockets:
        of.bind(("127.0.0.1", 0))
    ports = [of.getsockname()[1] for of in sockets]
    for of in sockets:
        of.close()
    return ports
