"""A private SLURM cluster on this machine: daemons, key, ports and folder of its own, gone when the tests end."""

from __future__ import annotations

import ctypes
import getpass
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

#: No client call takes longer than this on a cluster that lives.
CALL_SECONDS = 20.0

Value = TypeVar("Value")

_CONFIG = """\
ClusterName=sgooltest
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
# A requeued job may not start before its old credential has expired, which takes two minutes by default.
AuthInfo=socket={base}/munge.sock,cred_expire=5
StateSaveLocation={base}/state
SlurmdSpoolDir={base}/spool/%n
SlurmctldPidFile={base}/slurmctld.pid
SlurmdPidFile={base}/slurmd-%n.pid
SlurmctldLogFile={base}/slurmctld.log
SlurmdLogFile={base}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
# Nodes claim more processors than the machine has.
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=5
MinJobAge=3600
JobRequeue=1
{nodes}
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class Cluster:
    """A running cluster.

    Args:
        base: Its folder.
    """

    def __init__(self, base: Path) -> None:
        self.base = base
        self.config = base / "slurm.conf"

    @property
    def environment(self) -> dict[str, str]:
        """What clients and submitted jobs see: this process's environment without another cluster's settings."""
        own = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH", "SRUN"))}
        return own | {"SLURM_CONF": str(self.config)}

    def call(self, *command: str, check: bool = True) -> str:
        """A client's output; CalledProcessError or TimeoutExpired if it fails or does not answer."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=CALL_SECONDS, cwd=self.base
        )
        if check and done.returncode:
            raise RuntimeError(f"{command} ended with {done.returncode}: {done.stderr}")
        return done.stdout.strip()

    def job(self, job: str) -> dict[str, str]:
        """What ``scontrol show job`` says of one job or one array task."""
        fields = self.call("scontrol", "--oneliner", "show", "job", job).split()
        return dict(field.split("=", 1) for field in fields if "=" in field)

    def states(self, job: str) -> list[str]:
        """The states of a job's array tasks (of the job alone, if it is no array)."""
        lines = self.call("squeue", "--noheader", "--array", "--states=all", f"--jobs={job}", "--format=%T")
        return lines.splitlines()

    def wait(self, job: str, seconds: float = 150.0) -> list[str]:
        """The states of a job once nothing of it is waiting or running any more."""
        open_states = {"PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED", "SUSPENDED"}

        def ended() -> list[str]:
            states = self.states(job)
            return [] if open_states & set(states) else states

        return self.poll(ended, f"job {job} to end", seconds)

    def poll(self, look: Callable[[], Value], what: str, seconds: float = 90.0) -> Value:
        """What ``look`` returns once it is true; AssertionError with the daemons' last words if it never is."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if found := look():
                return found
            time.sleep(0.1)
        raise AssertionError(
            f"waited {seconds:g} s for {what}\n{self.call('squeue', check=False)}\n{self.last_words()}"
        )

    def last_words(self) -> str:
        """The end of each daemon's log."""
        logs = sorted(self.base.glob("*.log"))
        return "\n".join(f"{log.name}: {log.read_text(errors='replace')[-1500:]}" for log in logs)


@contextmanager
def run_cluster(nodes: int = 1, cpus: int = 4) -> Iterator[Cluster]:
    """A cluster for as long as the block runs.

    Args:
        nodes: Its nodes, all on this machine.
        cpus: Processors that each node claims to have.
    """
    # Not below pytest's folder: munged refuses a socket in a folder that others may not enter.
    base = Path(tempfile.mkdtemp(prefix="sgool-slurm-"))
    base.chmod(0o755)
    cluster = Cluster(base)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, base, ignore_errors=True)
        names = _write_config(cluster, nodes, cpus)
        stack.callback(_kill_the_rest, cluster)
        _start(stack, cluster, _munged(base))
        _poll_start(cluster, lambda: (base / "munge.sock").exists())
        _start(stack, cluster, ["slurmctld", "-D", "-c", "-f", str(cluster.config)])
        for name in names:
            _start(stack, cluster, ["slurmd", "-D", "-c", "-N", name, "-f", str(cluster.config)])
        _poll_start(cluster, lambda: cluster.call("sinfo", "-h", "-o", "%t %D", check=False) == f"idle {nodes}")
        stack.callback(_cancel_all, cluster)
        yield cluster


def _write_config(cluster: Cluster, nodes: int, cpus: int) -> list[str]:
    """Writes slurm.conf and the key; the nodes' names."""
    host, base, ports = socket.gethostname().split(".")[0], cluster.base, _free_ports(nodes + 1)
    names = [host] if nodes == 1 else [f"n{index}" for index in range(nodes)]
    lines = [
        f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} RealMemory=8000 State=UNKNOWN"
        for name, port in zip(names, ports[1:], strict=True)
    ]
    text = _CONFIG.format(host=host, base=base, ports=ports, user=getpass.getuser(), nodes="\n".join(lines))
    cluster.config.write_text(text)
    for folder in ("state", *(f"spool/{name}" for name in names)):
        (base / folder).mkdir(parents=True)
    key = base / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(1024))
    return names


def _munged(base: Path) -> list[str]:
    files = {"key-file": "munge.key", "socket": "munge.sock", "pid-file": "munged.pid", "seed-file": "munge.seed"}
    return ["munged", "-F", *(f"--{option}={base / name}" for option, name in files.items())]


def _free_ports(number: int) -> list[int]:
    """Ports that are free now, so that several clusters can run side by side."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _start(stack: ExitStack, cluster: Cluster, command: list[str]) -> None:
    """Starts a daemon in the foreground; it ends with the stack, or with this process if that is killed."""
    program = shutil.which(command[0], path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    output = stack.enter_context((cluster.base / f"{Path(command[0]).name}.out.log").open("ab"))
    process = subprocess.Popen(
        [program or command[0], *command[1:]],
        env=cluster.environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        cwd=cluster.base,
        preexec_fn=_die_with_parent,
    )
    stack.callback(_stop, process)


def _die_with_parent() -> None:
    set_parent_death_signal = 1
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(5)


def _poll_start(cluster: Cluster, ready: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        with suppress(subprocess.TimeoutExpired):
            if ready():
                return
        time.sleep(0.05)
    raise RuntimeError(f"the test cluster did not start\n{cluster.last_words()}")


def _cancel_all(cluster: Cluster) -> None:
    with suppress(subprocess.TimeoutExpired, RuntimeError, AssertionError):
        cluster.call("scancel", "--signal=KILL", "--full", f"--user={getpass.getuser()}", check=False)
        cluster.call("scancel", f"--user={getpass.getuser()}", check=False)
        cluster.poll(lambda: not cluster.call("squeue", "-h", check=False), "the last jobs to end", 10)


def _kill_the_rest(cluster: Cluster) -> None:
    """Ends what the daemons left running: job steps outlive slurmd. Known by this cluster's own SLURM_CONF."""
    mark = f"SLURM_CONF={cluster.config}".encode()
    for process in Path("/proc").iterdir():
        with suppress(OSError):
            if not process.name.isdigit() or int(process.name) == os.getpid():
                continue
            if mark in (process / "environ").read_bytes().split(b"\0"):
                os.kill(int(process.name), signal.SIGKILL)
