#!/bin/sh
# Says in one line when the shared Python library that Triton's Python backend loads is missing: libpython.sh PYTHON
exec "$1" -c '
import ctypes, os, sys, sysconfig

short = "%d.%d" % sys.version_info[:2]
name = "libpython%s.so.1.0" % short
for candidate in (name, os.path.join(sysconfig.get_config_var("LIBDIR") or "", name)):
    try:
        ctypes.CDLL(candidate)
        sys.exit(0)
    except OSError:
        pass
sys.exit("setup: %s is missing, Triton cannot run Python models without it: apt-get install libpython%s" % (name, short))
'
