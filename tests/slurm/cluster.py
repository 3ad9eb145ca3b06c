"""A real Slurm cluster on this one machine: munged, slurmctld and two slurmd, on the loopback interface only.

    python tests/slurm/cluster.py run COMMAND...     start it, run COMMAND with SLURM_CONF set, stop it
    python tests/slurm/cluster.py why                print why that cannot be done here, if it cannot

It needs root and Debian's packages slurm-wlm and munge; their own services stay as they are.  Everything it writes is
in one temporary folder.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mepipe.executors import die_with_parent

PROGRAMS = ("munged", "slurmctld", "slurmd", "slurmstepd", "sbatch", "srun", "squeue", "scontrol", "scancel", "sinfo")
WHERE = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin", "/usr/lib/slurm-wlm"])
NODES = ("one", "two")
STARTING = 60  # seconds until all nodes are idle; a loaded machine takes ten

CONF = """\
ClusterName=mepipe
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
MaxArraySize=64
KillWait=10
InactiveLimit=0
SchedulerParameters=sched_interval=1,batch_sched_delay=0,requeue_delay=0
MinJobAge=600
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{nodes}
PartitionName=cpu Nodes={names} Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO PriorityTier=1 GraceTime=20
PartitionName=hasty Nodes={names} MaxTime=INFINITE State=UP OverSubscribe=NO PriorityTier=1
PartitionName=urgent Nodes={names} MaxTime=INFINITE State=UP OverSubscribe=NO PriorityTier=10 PreemptMode=OFF
"""


def why_not() -> str:
    """Why no cluster can be started here; "" when one can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "a Slurm cluster needs root on Linux"
    absent = [p for p in PROGRAMS if shutil.which(p, path=WHERE) is None]
    if absent:
        return f"{', '.join(absent)} not installed (apt-get install slurm-wlm munge)"
    return ""


class Cluster:
    """The cluster while the ``with`` block runs; ``environment`` is that of its commands."""

    def __init__(self, folder: Path, cpus: int = 2) -> None:
        self.folder = folder
        self.cpus = cpus  # of each node: made up, for nothing is bound to them
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        ports = free_ports(1 + len(NODES))
        lines = [
            f"NodeName={name} NodeHostname={socket.gethostname()} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} "
            "State=UNKNOWN RealMemory=1000"
            for name, port in zip(NODES, ports[1:], strict=True)
        ]
        self.conf = folder / "slurm.conf"
        text = CONF.format(
            folder=folder, host=socket.gethostname(), ports=ports, nodes="\n".join(lines), names=",".join(NODES)
        )
        self.conf.write_text(text + "SlurmdParameters=config_overrides\n")
        self.environment = {**os.environ, "SLURM_CONF": str(self.conf), "PATH": WHERE}

    def __enter__(self) -> Cluster:
        try:
            self._start_munge()
            (self.folder / "state").mkdir(exist_ok=True)
            self.start("slurmctld", "slurmctld", "-D", "-f", str(self.conf))
            for name in NODES:
                (self.folder / f"spool-{name}").mkdir(exist_ok=True)
                self.start(name, "slurmd", "-D", "-N", name, "-f", str(self.conf))
            self.wait_for_nodes()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _start_munge(self) -> None:
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        places = {"socket": "munge.socket", "pid-file": "munged.pid", "log-file": "munged.log", "seed-file": "seed"}
        options = [f"--{option}={self.folder / name}" for option, name in places.items()]
        self.start("munged", "munged", "--foreground", "--force", f"--key-file={key}", *options)
        wait_until(lambda: (self.folder / "munge.socket").exists(), "munged", STARTING)

    def start(self, name: str, *command: str) -> None:
        """Start a daemon in the foreground, as a child of this process."""
        log = (self.folder / f"{name}.out").open("ab")
        program = shutil.which(command[0], path=WHERE)
        assert program is not None
        self._daemons[name] = subprocess.Popen(
            [program, *command[1:]],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=die_with_parent,  # a killed pytest leaves no daemon behind
        )

    def end(self, name: str) -> None:
        """Stop a daemon; what it has started goes on."""
        daemon = self._daemons.pop(name)
        daemon.terminate()
        try:
            daemon.wait(20)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    def restart_controller(self) -> None:
        """What an administrator does in the middle of the day."""
        self.end("slurmctld")
        self.start("slurmctld", "slurmctld", "-D", "-f", str(self.conf))
        wait_until(lambda: self.ask("scontrol", "ping").count("UP") > 0, "slurmctld after its restart", STARTING)

    def ask(self, *command: str) -> str:
        """What one of Slurm's commands prints."""
        program = shutil.which(command[0], path=WHERE)
        assert program is not None
        done = subprocess.run(
            [program, *command[1:]], env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )
        return done.stdout

    def wait_for_nodes(self) -> None:
        def ready() -> bool:
            states = self.ask("sinfo", "--noheader", "--Node", "--partition=cpu", "--format=%T").split()
            return len(states) == len(NODES) and set(states) == {"idle"}

        wait_until(ready, "the nodes", STARTING)

    def stop(self) -> None:
        """End the daemons, and what runs of jobs: nothing is left."""
        if "slurmctld" in self._daemons:
            self.ask("scancel", "--user=root")
            deadline = time.monotonic() + 20
            while self.ask("squeue", "--noheader").strip() and time.monotonic() < deadline:
                time.sleep(0.5)
        for name in (*NODES, "slurmctld", "munged"):
            if name in self._daemons:
                self.end(name)
        for pid in self.left():
            os.kill(pid, signal.SIGKILL)

    def left(self) -> list[int]:
        """Processes of this cluster that still run: whose environment or command line names its folder."""
        mark = str(self.folder).encode()
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                facts = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            except OSError:
                continue
            ours = b"slurm" in (entry / "cmdline").read_bytes() or b"munge" in (entry / "cmdline").read_bytes()
            if mark in facts and ours and int(entry.name) != os.getpid():
                found.append(int(entry.name))
        return found


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]
    finally:
        for s in sockets:
            s.close()


def wait_until(true: object, what: str, seconds: float) -> None:
    """Raises TimeoutError when ``true()`` is not within ``seconds``."""
    deadline = time.monotonic() + seconds
    while not true():  # type: ignore[operator]
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not ready after {seconds} s")
        time.sleep(0.2)


def main(args: list[str]) -> int:
    if args[:1] == ["why"]:
        print(why_not())
        return 0
    if args[:1] != ["run"] or len(args) < 2:
        print(__doc__)
        return 2
    if reason := why_not():
        print(f"skipped: {reason}")
        return 0
    with tempfile.TemporaryDirectory(prefix="mepipe-slurm-") as folder, Cluster(Path(folder)) as cluster:
        return subprocess.run(args[1:], env=cluster.environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
