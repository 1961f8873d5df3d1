"""Types what docs/tutorial.md says to type, on the hosts that it names, and compares what is printed with what stands there.

Arguments: the page, a folder, and for each host NAME=PID of a process that holds its namespaces. In what is expected, "…" stands for
anything, and a line of it for any number of lines; runs of blanks are one blank.
"""

import pathlib
import re
import subprocess
import sys
import time

# Longest time that a command takes, and that one which asks for something may be repeated, in seconds.
LIMIT = 60
PATIENCE = 20
# What may be typed again until it shows what is expected, as a reader would.
ASKING = re.compile(r"causeway (get|check|explain)\b|curl |dig ")
PROMPT = re.compile(r"^([a-z]+)\$ (.*)$")
END = "end of the command:"


class Host:
    """A shell on a host, which lives as long as the page is read. What goes to standard error is in errors.log."""

    def __init__(self, process: str, folder: pathlib.Path):
        folder.mkdir()
        self.folder = folder
        self.shell = subprocess.Popen(
            ["nsenter", f"--target={process}", "--net", "--", "bash"],
            cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
            stderr=(folder / "errors.log").open("w"),
        )

    def type(self, command: str) -> tuple[list[str], int]:
        self.shell.stdin.write(f"{command}\necho \"{END}$?\"\n")
        printed = []
        for line in self.shell.stdout:
            before, mark, status = line.rstrip("\n").partition(END)
            if before:
                printed.append(before)
            if mark:
                return printed, int(status)
        raise SystemExit(f"the shell ended at: {command}")


def fits(printed: list[str], expected: list[str]) -> bool:
    """True where the lines are what is expected."""
    pattern = ""
    for line in expected:
        if line.strip() == "…":
            pattern += r"(?:.*\n)*?"
        else:
            words = " ".join(line.split())
            pattern += ".*".join(re.escape(part.strip()) for part in words.split("…")) + r"\s*\n"
    text = "".join(" ".join(line.split()) + "\n" for line in printed if line.strip())
    return re.fullmatch(pattern, text) is not None


def blocks(page: str):
    """Kind and lines of each fenced block."""
    for kind, text in re.findall(r"^```(\w+)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        yield kind, text.splitlines()


def steps(lines: list[str]):
    """Host, command and expected lines of each line with a prompt."""
    found = []
    for line in lines:
        if prompt := PROMPT.match(line):
            found.append((prompt[1], prompt[2], []))
        elif found:
            found[-1][2].append(line)
        else:
            raise SystemExit(f"a line before the first prompt: {line}")
    return [(host, command, [line for line in expected if line.strip()]) for host, command, expected in found]


def carry_out(host: Host, command: str, expected: list[str]) -> list[str]:
    begun = time.monotonic()
    while True:
        asked = time.monotonic()
        printed, status = host.type(command)
        if time.monotonic() - asked > LIMIT:
            raise SystemExit(f"took more than {LIMIT} s: {command}")
        if status == 0 and fits(printed, expected):
            return printed
        if not ASKING.match(command) or time.monotonic() - begun > PATIENCE:
            errors = (host.folder / "errors.log").read_text().splitlines()[-10:]
            raise SystemExit("\n".join([f"{command}\nended with {status} and printed", *printed, *errors, "where the page has", *expected]))
        time.sleep(0.2)


def main() -> None:
    page, folder, *named = sys.argv[1:]
    hosts = {name: Host(process, pathlib.Path(folder) / name) for name, process in (argument.split("=") for argument in named)}
    begun, token, typed = time.monotonic(), "", 0
    for kind, lines in blocks(pathlib.Path(page).read_text()):
        if kind == "yaml":
            name = lines[0].removeprefix("# ")
            for host in hosts.values():
                (host.folder / name).write_text("\n".join(lines) + "\n")
        elif kind == "console":
            for host, command, expected in steps(lines):
                printed = carry_out(hosts[host], command.replace("TOKEN", token), expected)
                token = next((line for line in printed if line.startswith("cwjoin")), token)
                typed += 1
        else:
            raise SystemExit(f"a block that is neither yaml nor console: {kind}")
    print(f"measured: {typed} commands of the tutorial took {time.monotonic() - begun:.0f} s")


main()
