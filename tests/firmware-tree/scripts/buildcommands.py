"""Makes the data dictionary of what the sources declare, and C source that holds it.

The version is what Klipper's is: `git describe`, and time and host behind it where the same could not be built again.
"""

import argparse
import json
import pathlib
import socket
import subprocess
import time
import zlib

SOURCE = """#include "firmware.h"

#ifdef __AVR__
#include <avr/pgmspace.h>
#else
#define PROGMEM
#endif

const uint8_t dictionary[] PROGMEM = {{
    {bytes}
}};
const uint32_t dictionary_size = sizeof(dictionary);
"""


def said(*command):
    """The first line that a command prints; none if it fails."""
    try:
        run = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return run.stdout.partition("\n")[0].strip()


def tool_versions(tools):
    """The versions of compiler and binutils, and whether all are known and of one kind."""
    compilers, binutils = set(), set()
    for tool in tools:
        line = said(tool, "--version").removeprefix("GNU ")
        kind = compilers if tool.endswith("gcc") else binutils
        kind.add(line.partition(" ")[2])
    shown = ["mixed" if len(kind) > 1 else min(kind) for kind in (compilers, binutils)]
    return "gcc: {} binutils: {}".format(*shown), "mixed" not in shown and all(shown)


def tree_version():
    """The version of the tree, and whether it holds nothing that its commit does not."""
    if pathlib.Path(".git").exists():
        version = said("git", "describe", "--always", "--tags", "--long", "--dirty")
        return version, bool(version) and "dirty" not in version
    file = pathlib.Path("klippy/.version")
    return (file.read_text().strip() if file.exists() else "?"), False


def declared(files):
    """The lines that the sources declare, in the order of the files."""
    for file in files:
        for line in pathlib.Path(file).read_bytes().split(b"\0"):
            if line:
                yield line.decode().split(" ", 2 if line.startswith((b"number", b"string")) else 1)


# The ids of the messages that hold before a dictionary is known.
KNOWN = {"identify_response offset=%u data=%.*s": 0, "identify offset=%u count=%c": 1}


def dictionary_of(lines):
    """The dictionary of these lines. Every message has an id of its own."""
    made = {"app": "Klipper", "commands": {}, "responses": {}, "config": {}}
    for number, (kind, *rest) in enumerate(lines):
        if kind in ("command", "response"):
            made[kind + "s"][rest[0]] = KNOWN.get(rest[0], len(KNOWN) + number)
        elif kind == "number":
            made["config"][rest[0]] = int(rest[1])
        else:
            made["config"][rest[0]] = rest[1]
    return made


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--tools", type=lambda text: text.split(";"))
    arguments.add_argument("--dict", type=pathlib.Path)
    arguments.add_argument("--source", type=pathlib.Path)
    arguments.add_argument("files", nargs="*")
    arguments = arguments.parse_args()

    build_versions, tools_are_known = tool_versions(arguments.tools)
    version, clean = tree_version()
    if not (clean and tools_are_known):
        version += time.strftime("-%Y%m%d_%H%M%S-") + socket.gethostname()
    print("Version:", version)

    made = dictionary_of(declared(arguments.files)) | {"version": version, "build_versions": build_versions}
    text = json.dumps(made, sort_keys=True, separators=(",", ":"))
    arguments.dict.write_text(text)
    data = ", ".join(str(byte) for byte in zlib.compress(text.encode(), 9))
    arguments.source.write_text(SOURCE.format(bytes=data))


main()
