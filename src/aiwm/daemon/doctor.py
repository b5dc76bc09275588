"""`aiwm doctor`: says whether the machine it runs on can be a node, and of what is wrong what to do about it."""

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from aiwm.daemon import checks, engine_checks, reach
from aiwm.daemon.checks import Check
from aiwm.daemon.credential import Credential
from aiwm.daemon.envfile import read_environment
from aiwm.daemon.join import read_identity
from aiwm.daemon.link import base_url
from aiwm.daemon.service import ENVIRONMENT, UNIT
from aiwm.daemon.software import docker_at, docker_facts, find_software
from aiwm.kit.settings import Settings, SettingsError, load_settings
from aiwm.kit.trust import trusting


def examine(settings: Settings, *, installed: bool) -> list[Check]:
    """Everything; takes seconds where something does not answer."""
    docker = docker_at(settings.docker_host, os.environ)
    found, (reading, silent) = find_software(docker, settings.vllm_server), checks.look_at_gpus()
    return [
        checks.python(),
        checks.data_folder(settings.data_dir, installed=installed),
        checks.gpus(reading, silent),
        *engine_checks.containers(docker, found, docker_facts(docker), gpus=bool(reading.devices)),
        *engine_checks.engines(settings, found),
        checks.service(),
        checks.open_files(),
        checks.cgroup(),
        *_network(settings),
    ]


def own_token(settings: Settings) -> Check:
    """What this node would show the controller: what it was given, or got when it joined, or last got instead."""
    folder = settings.data_dir / "node"
    try:
        identity = None if settings.node_token else read_identity(folder)
    except SettingsError as error:
        return Check("fail", "token", *str(error).split("; ", 1))
    except OSError as error:
        return Check("warn", "token", f"{folder} cannot be looked into: {error.strerror}", "run this with sudo")
    given = settings.node_token or (identity.token if identity else "")
    if not given and settings.join_token:
        return Check("ok", "token", "a join token; whether it is still good the controller says when the daemon starts")
    return reach.token(Credential(folder, given).token, time.time())


def _network(settings: Settings) -> list[Check]:
    told = own_token(settings)
    if not settings.controller_url:
        advice = "set AIWM_CONTROLLER_URL to its address, like https://aiwm:3003"
        return [told, Check("fail", "controller", "its address is not set", advice)]
    try:
        trust = trusting(settings.tls_ca)
    except SettingsError as error:
        return [told, Check("fail", "certificate", str(error), "correct AIWM_TLS_CA")]
    return [told, *reach.controller(base_url(settings.controller_url), trust)]


def _settings(given: argparse.Namespace, environment: Mapping[str, str]) -> tuple[Settings, Check]:
    """This shell's settings, over those that the service is installed with."""
    source, values = "this shell's environment", dict(environment)
    try:
        if given.env_file.exists():
            values = read_environment(given.env_file.read_text()) | values
            source = f"{given.env_file}, and {source}"
    except OSError as error:
        source = f"{source} alone: {given.env_file} cannot be read ({error.strerror})"
    flags = {name: getattr(given, name) for name in ("controller_url", "data_dir", "tls_ca")}
    try:
        return load_settings(flags, values), Check("ok", "settings", f"from {source}")
    except SettingsError as error:
        usual = replace(Settings(), data_dir=Path(given.data_dir or "~/.aiwm").expanduser().absolute())
        return usual, Check("fail", "settings", str(error), "correct it; what follows is looked at without settings")


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="aiwm doctor", description="Says whether this machine can be a node, and what to do.", allow_abbrev=False
    )
    made.add_argument("--controller-url")
    made.add_argument("--data-dir")
    made.add_argument("--tls-ca", help="file of authorities to trust besides the system's")
    made.add_argument("--env-file", type=Path, default=ENVIRONMENT, help="the service's settings (%(default)s)")
    made.add_argument("-o", "--output", choices=("table", "json"), default="table")
    return made


def main(arguments: Sequence[str]) -> int:
    """0 when nothing failed, 1 when something did, 2 when it was called wrongly."""
    given = _parser().parse_args(arguments)
    # What a part of the daemon would log is here a line of its own.
    logging.disable(logging.CRITICAL)
    try:
        settings, source = _settings(given, os.environ)
        found = [source, *examine(settings, installed=UNIT.exists())]
    finally:
        logging.disable(logging.NOTSET)
    well = all(each.verdict != "fail" for each in found)
    if given.output == "json":
        print(json.dumps({"ok": well, "checks": [each.to_json() for each in found]}, indent=2))
    else:
        print("\n".join(each.line() for each in found))
        if not well:
            print("something above must be put right before this machine is a node", file=sys.stderr)
    return 0 if well else 1
