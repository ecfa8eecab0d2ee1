"""Copies of the app's process that go on as other command lines."""

import subprocess
import sys
import textwrap

from conftest import environment


def said(tmp_path, program: str) -> subprocess.CompletedProcess:
    """What a program answers in whose main module stands the app's `main`, as in the console script."""
    whole = "from ddattr.cli import main\nfrom ddattr.stages.forked import Fork, entry\n" + textwrap.dedent(program)
    command = [sys.executable, "-c", whole]
    return subprocess.run(command, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True)


def test_a_fork_answers_as_a_process_that_is_started(tmp_path):
    """Status, streams and environment are its own; what it does to the process is nothing to the one it copies."""
    found = said(
        tmp_path,
        """
        import os, sys, time
        from hydra.core.global_hydra import GlobalHydra
        with_hydra, GlobalHydra.instance().hydra = GlobalHydra.instance(), object()  # of the line that is forked
        argv = list(sys.argv)
        print(Fork(entry(), ["--version"], {}).wait(), Fork(entry(), ["tain"], {}).wait())
        print(Fork(lambda: sys.exit(int(os.environ["OF_A_FORK"])), [], {"OF_A_FORK": "7"}).wait())
        sleeping = Fork(lambda: time.sleep(60), [], {})
        print(sleeping.poll())
        sleeping.terminate()
        print(sleeping.wait(), sleeping.poll())
        print(sys.argv == argv, "OF_A_FORK" in os.environ, with_hydra.hydra is not None)
        """,
    )
    version, *lines = found.stdout.splitlines()
    assert version.startswith("ddattr ")
    assert lines == ["0 2", "7", "None", "-15 -15", "True False True"]
    assert found.stderr.startswith("ddattr: no verb 'tain', expected one of ")
    assert len(found.stderr.splitlines()) == 1


def test_there_is_none_beside_another_thread_nor_with_an_accelerator_nor_in_another_program(tmp_path):
    found = said(
        tmp_path,
        """
        import sys, threading, torch
        print(entry() is main)
        ended = threading.Event()
        thread = threading.Thread(target=ended.wait)
        thread.start()
        print(entry())
        ended.set()
        thread.join()
        print(entry() is main)
        available, torch.accelerator.is_available = torch.accelerator.is_available, lambda: True
        print(entry())
        torch.accelerator.is_available = available
        main = print
        print(entry())
        """,
    )
    assert found.stdout.split() == ["True", "None", "True", "None", "None"], found.stderr
