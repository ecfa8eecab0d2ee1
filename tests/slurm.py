"""A Slurm of one node, on loopback and in a scratch folder: Debian's slurm-wlm, as root, without systemd."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
MUNGE = {
    "key-file": "munge.key",
    "socket": "munge.sock",
    "pid-file": "munged.pid",
    "log-file": "munged.log",
    "seed-file": "munged.seed",
}
CONFIG = """ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={control}
SlurmdPort={node}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
ReturnToService=2
MailProg=/bin/true
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""
SACCT = f"""#!{sys.executable}
# submitit asks sacct, which needs a data base; the controller knows the same of jobs that it has not forgotten
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from slurm import states
print("JobID|State|NodeList")
for asked in (word for flag, word in zip(sys.argv, sys.argv[1:]) if flag == "-j"):
    for job, state in states(asked).items():
        print(f"{{job}}|{{state}}|")
"""


def states(job: str) -> dict[str, str]:
    """State of every task of an array, as sacct names them: 7_0, 7_1, and 7_[2-5] those that wait."""
    said = subprocess.run(["scontrol", "show", "job", "-o", job], capture_output=True, text=True).stdout
    found = {}
    for line in said.splitlines():
        fields = dict(re.findall(r"(\w+)=(\S+)", line))
        task = fields.get("ArrayTaskId", "")
        task = task if task.isdigit() else f"[{task}]"
        if "JobId" in fields:
            found[f"{fields['ArrayJobId']}_{task}" if "ArrayJobId" in fields else fields["JobId"]] = fields["JobState"]
    return found


def until(held: Callable[[], object], seconds: float = 300) -> None:
    """Waits for a condition."""
    end = time.monotonic() + seconds
    while not held():
        assert time.monotonic() < end, f"nothing came in {seconds} s"
        time.sleep(0.05)


@contextmanager
def cluster(folder: Path) -> Iterator[None]:
    """Runs the daemons around a block, and sets the environment by which commands find them."""
    before = dict(os.environ)
    for name in ("state", "spool", "bin"):
        (folder / name).mkdir()
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        control, node = one.getsockname()[1], two.getsockname()[1]
    host = socket.gethostname()
    config = folder / "slurm.conf"
    config.write_text(CONFIG.format(host=host, folder=folder, control=control, node=node, cores=os.cpu_count()))
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    (folder / "bin" / "sacct").write_text(SACCT)
    (folder / "bin" / "sacct").chmod(0o755)
    os.environ |= {"SLURM_CONF": str(config), "PATH": f"{folder / 'bin'}:{os.environ['PATH']}:/usr/sbin"}
    own = [f"--{name}={folder}/{file}" for name, file in MUNGE.items()]
    try:
        subprocess.run(["munged", "--force", *own], check=True)
        subprocess.run(["slurmctld", "-f", config, "-c"], check=True)
        subprocess.run(["slurmd", "-f", config, "-N", host], check=True)
        until(lambda: "idle" in subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True).stdout)
        yield
    finally:
        subprocess.run(["scancel", "--user", "root"], capture_output=True)
        with suppress(AssertionError):  # a node that ends before its jobs have waits for them for ever
            until(lambda: not subprocess.run(["squeue", "-h"], capture_output=True).stdout, 60)
        for daemon in reversed(DAEMONS):
            with suppress(FileNotFoundError, ProcessLookupError):
                _end(int((folder / f"{daemon}.pid").read_text()))
        os.environ.clear()
        os.environ.update(before)


def _end(process: int, seconds: float = 10) -> None:
    """Asks a process to end, and ends it when it does not; ProcessLookupError when it is gone."""
    os.kill(process, signal.SIGTERM)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        os.kill(process, 0)
        time.sleep(0.05)
    os.kill(process, signal.SIGKILL)


def installed() -> bool:
    """Whether the daemons are there, and this process may run them."""
    path = f"{os.environ['PATH']}:/usr/sbin"
    return os.geteuid() == 0 and all(shutil.which(daemon, path=path) for daemon in DAEMONS)
