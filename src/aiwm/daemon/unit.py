"""The systemd unit that runs the daemon, as text: what it may do, and why not less. Pure."""

import re
from dataclasses import dataclass
from pathlib import PurePath

SERVICE = "aiwm-node"
USER = "aiwm"
PLAIN_PATH = re.compile(r"/[A-Za-z0-9._/+-]*")

_UNIT = """\
# Written by `aiwm node install`, which writes it again. Changes of your own: systemctl edit {service}
[Unit]
Description=AIWM node daemon
Wants=network-online.target modprobe@nvidia_uvm.service
After=network-online.target modprobe@nvidia_uvm.service nvidia-persistenced.service docker.service
# It is started again for ever: a controller that is away for a night is no reason to give up.
StartLimitIntervalSec=0

[Service]
Type=exec
# Without new privileges an engine cannot make the driver's device files itself; where there is no driver this does
# nothing.
ExecStartPre=+-/usr/bin/nvidia-modprobe -c 0 -u
ExecStart={python} -P -m aiwm.daemon
EnvironmentFile={environment}
WorkingDirectory={data_dir}
User={user}
Group={user}
{groups}Restart=always
RestartSec=5
TimeoutStopSec=30

# Engines and their keepers outlive the daemon's restarts and upgrades: only the daemon itself is ended, and an engine
# that the kernel ends for want of memory ends nothing else. Their keepers give them a score of
# their own.
KillMode=process
OOMPolicy=continue
OOMScoreAdjust=-500
LimitNOFILE=1048576
TasksMax=65536
LimitCORE=0
UMask=0077

# What it may write to: its data folder, and /dev/shm, which engines share memory in. /tmp stays the machine's, as a
# private one would be pulled from under running engines at each restart.
ProtectSystem=strict
ReadWritePaths={data_dir} /dev/shm /tmp /var/tmp
PrivateTmp=no
ProtectHome=yes
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
RestrictSUIDSGID=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictNamespaces=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
SystemCallArchitectures=native
SystemCallFilter=~@clock @cpu-emulation @module @mount @obsolete @raw-io @reboot @swap
SystemCallErrorNumber=EPERM
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes

# Of devices the harmless ones and NVIDIA's, by the names the driver registers: PrivateDevices would hide the GPUs.
DevicePolicy=closed
DeviceAllow=char-nvidia rw
DeviceAllow=char-nvidia-* rw

[Install]
WantedBy=multi-user.target
"""


@dataclass(frozen=True, slots=True)
class Service:
    """Absolute paths, as they are on the machine that runs it."""

    python: PurePath
    environment: PurePath
    data_dir: PurePath
    docker: bool = False


def unit_text(service: Service) -> str:
    """The unit. Whoever may use Docker's socket is root on the machine, so that group is only given when asked for."""
    return _UNIT.format(
        service=SERVICE,
        user=USER,
        python=service.python,
        environment=service.environment,
        data_dir=service.data_dir,
        groups="SupplementaryGroups=docker\n" if service.docker else "",
    )


def uses_docker(unit: str) -> bool:
    """Whether an installed unit was given Docker's group."""
    return "\nSupplementaryGroups=docker\n" in unit
