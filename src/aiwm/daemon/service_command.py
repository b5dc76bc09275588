"""`aiwm node install` and `aiwm node uninstall` as commands: arguments in, lines and an exit code out."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from aiwm.daemon.install import install, printed
from aiwm.daemon.service import DATA_DIR, Machine, Refused, run_command
from aiwm.daemon.uninstall import uninstall


def parser(verb: str) -> argparse.ArgumentParser:
    """The arguments of `install` or `uninstall`."""
    about = {"install": "Runs the daemon as a service of systemd.", "uninstall": "Removes the daemon's service."}[verb]
    made = argparse.ArgumentParser(prog=f"aiwm node {verb}", description=about, allow_abbrev=False)
    made.add_argument("--root", type=Path, help="lay out files below this folder and run nothing")
    if verb == "uninstall":
        made.add_argument("--purge", action="store_true", help="also remove what the node keeps in its data folder")
        return made
    made.add_argument("--controller-url", help="where the node dials, like https://aiwm.example.org:3003")
    made.add_argument("--token-file", help="file that holds the node's token")
    made.add_argument("--join-token-file", help="file that holds a token of `aiwm nodes join-token`")
    made.add_argument("--node-name", help="the node's name when it joins; its hostname if not given")
    made.add_argument("--data-dir", help=f"what the node keeps (default: {DATA_DIR})")
    made.add_argument("--tls-ca", help="file of authorities to trust besides the system's")
    made.add_argument("--advertise-host", help="this node's address that the gateway may dial")
    made.add_argument("--triton-server", help="path of the tritonserver binary, where it is not found by itself")
    made.add_argument("--vllm-server", help="path of the vllm command, where it is not found by itself")
    made.add_argument(
        "--docker", action=argparse.BooleanOptionalAction, help="let it use Docker, which amounts to root"
    )
    made.add_argument("--print", action="store_true", help="show the unit and write nothing")
    return made


def main(verb: str, arguments: Sequence[str]) -> int:
    """Runs `install` or `uninstall`; 0 when it is done, 1 when it cannot be, 2 when it was called wrongly."""
    given = parser(verb).parse_args(arguments)
    machine = Machine(given.root.absolute(), None) if given.root else Machine(run=run_command)
    try:
        if verb == "uninstall":
            said = uninstall(machine, purge=given.purge)
        elif given.print:
            said = [printed(given, os.environ)]
        else:
            said = install(given, os.environ, machine)
    except Refused as error:
        print(f"aiwm node {verb}: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"aiwm node {verb}: cannot write {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    print("\n".join(said))
    return 0
