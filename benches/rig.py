"""What every measurement needs: figures and their report, child processes, requests and load.

Figures of one run on one machine; who measures what is in measure.py and kube.py.
"""

import datetime
import http.client
import json
import math
import os
import pathlib
import platform
import re
import socket
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
PARTS = ROOT / "tests/parts"
TOOLS = pathlib.Path(os.environ.get("X402_TOOLS_DIR", pathlib.Path.home() / ".cache/x402-verifier-tools"))
QUICK = os.environ.get("X402_BENCH_QUICK") == "1"

WALLET = "0x209693Bc6afc0C5328bA36FaF03C514EF312287C"
FORWARDED = {
    "X-Forwarded-Method": "GET",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "shop.example",
    "X-Forwarded-For": "192.0.2.7",
}
LARGE = 100_000  # routes


# ---- figures ----

HEAD = """# Performance

Written by `make bench` (`benches/measure.py`). Load generators, peers and the verifier share one machine, so the ratios of one run count; absolute figures are notes for this machine.
"""


class Figures:
    """What was measured, in order, and which of it has a target."""

    def __init__(self):
        self.sections = []
        self.measured = f"Measured {datetime.date.today()} on {machine()}; x402-verifier {version()}."

    def section(self, title, conditions):
        self.sections.append((title, conditions, []))
        print(f"\n{title}", flush=True)

    def add(self, what, value, shown, target=None, at_least=False, note=""):
        """One row; `target` is a bound of `value`, from above unless `at_least`."""
        if target is None:
            bound, verdict = "", ""
        else:
            met = value >= target[0] if at_least else value <= target[0]
            bound = ("at least " if at_least else "at most ") + target[1]
            verdict = "pass" if met else "**short**"
        self.sections[-1][2].append((what, shown, bound, verdict, note))
        print(f"  {what}: {shown}  [{bound or 'no target'}] {verdict.strip('*')}  {note}", flush=True)

    def ratio(self, what, value, target, at_least=False, note=""):
        self.add(what, value, f"{value:.2f}x", (target, f"{target:g}x"), at_least, note)

    def write(self, file, is_whole):
        """Writes the report. What was measured alone takes the place of the section of its title; the rest stays."""
        kept = {}
        if not is_whole and file.exists():
            texts = file.read_text().split("\n## ")[1:]
            kept = {text.split("\n", 1)[0]: text.split("\n", 1)[1].strip("\n") for text in texts}
        for title, conditions, rows in self.sections:
            table = ["| what | figure | target | | note |", "|---|---|---|---|---|"]
            table += ["| " + " | ".join(row) + " |" for row in rows]
            kept[title] = "\n".join(["", conditions, "", self.measured, "", *table]).strip("\n")
        text = HEAD + "".join(f"\n## {title}\n\n{body}\n" for title, body in kept.items())
        file.write_text(text)


def machine():
    model = "unknown CPU"
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    memory = int(re.search(r"MemTotal:\s+(\d+)", pathlib.Path("/proc/meminfo").read_text())[1]) / 2**20
    load = os.getloadavg()[0]
    return f"{os.cpu_count()} cores ({model}), {memory:.0f} GiB, Linux {platform.release()}, load average {load:.1f} before the load runs"


def version():
    describe = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(describe, capture_output=True, text=True, check=False).stdout.strip() or "outside git"


def milliseconds(seconds):
    return f"{seconds * 1000:.2f} ms" if seconds < 0.1 else f"{seconds * 1000:.0f} ms"


def nanoseconds(value):
    return f"{value:.0f} ns" if value < 1000 else f"{value / 1000:.2f} µs"


def percentile(values, share):
    """Nearest rank."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


# ---- parts ----


class Part:
    """A child process that ends with its `with` block; its output goes to a file."""

    def __init__(self, name, folder, command, cwd=None):
        self.name = name
        self.log = folder / f"{name}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [str(word) for word in command], cwd=cwd or folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def wait_for(self, what, ready, limit=60, every=0.002):
        """Polls until `ready` gives something true, and returns it."""
        end = time.monotonic() + limit
        while time.monotonic() < end:
            if self.process.poll() is not None:
                break
            found = ready()
            if found:
                return found
            time.sleep(every)
        tail = self.log.read_text(errors="replace")[-2000:]
        raise RuntimeError(f"{self.name}: waited in vain for {what}; its log ends with\n{tail}")

    def address(self):
        """What it says it listens on, without a scheme."""
        pattern = re.compile(r"listening on (?:http://)?(\S+)\n")

        def listening():
            return pattern.search(self.log.read_text(errors="replace"))

        return self.wait_for("its address", listening)[1]

    def memory(self, field):
        """A field of /proc/PID/status, in MiB."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"{field}:\s+(\d+) kB", status)[1]) / 1024


class Verifier(Part):
    """The release binary, started with a pricing file and a ledger of its own; `ready_after` in seconds."""

    def __init__(self, folder, pricing, *further, every=0.002):
        folder.mkdir()
        self.config = folder / "pricing.yaml"
        self.config.write_text(pricing)
        self.traffic, self.admin = free_address(), free_address()
        flags = ["--config", self.config, "--listen", self.traffic, "--admin-listen", self.admin]
        started = time.monotonic()
        super().__init__("verifier", folder, [self.binary(), "serve", *flags, "--ledger", f"sqlite:{folder}/ledger.db", *further])
        self.wait_for("readiness", lambda: status(self.admin, "/readyz") == 200, 300, every)
        self.ready_after = time.monotonic() - started

    @staticmethod
    def binary():
        return target_folder() / "release/x402-verifier"

    def url(self):
        return f"http://{self.traffic}/verify"


def target_folder():
    command = ["cargo", "metadata", "--format-version=1", "--no-deps", "--offline"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return pathlib.Path(json.loads(found.stdout)["target_directory"])


def peer(name):
    path = TOOLS / "peers" / name
    if not path.exists():
        raise RuntimeError(f"{path} is not there: run `make tools`")
    return path


def free_address():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def get(address, path, headers=None):
    """Status, headers as sent, body."""
    connection = http.client.HTTPConnection(address, timeout=30)
    try:
        connection.request("GET", path, headers=headers or {})
        response = connection.getresponse()
        return response.status, response.getheaders(), response.read()
    finally:
        connection.close()


def status(address, path, headers=None):
    """The status, or None while nobody answers."""
    try:
        return get(address, path, headers)[0]
    except OSError:
        return None


def verify(verifier, uri):
    return get(verifier.traffic, "/verify", {**FORWARDED, "X-Forwarded-Uri": uri})


def recorded(folder, name, answer):
    """The files from which axum-static repeats an answer."""
    answer_status, headers, body = answer
    (folder / f"{name}.headers").write_text("".join(f"{key}: {value}\n" for key, value in headers))
    (folder / f"{name}.body").write_bytes(body)
    return [str(answer_status), folder / f"{name}.headers", folder / f"{name}.body"]


def same_answer(ours, theirs):
    def kept(answer):
        return answer[0], sorted((k.lower(), v) for k, v in answer[1] if k.lower() != "date"), answer[2]

    if kept(ours) != kept(theirs):
        raise RuntimeError(f"the peer does not repeat our answer: {kept(ours)} {kept(theirs)}")


def pricing(routes, facilitator="http://127.0.0.1:9"):
    head = f"""chain: base-sepolia
wallet: "{WALLET}"
facilitatorURL: {facilitator}
limits: {{permitsPerOffer: 4096, permitsPerFacilitator: 4096, verifyRatePerPayer: 100000, verifyRatePerOffer: 100000}}
routes:
"""
    return head + "".join(f"- {route}\n" for route in routes)


def offer(number, price="0.001"):
    return f'{{pattern: "/services/offer-{number}/*", price: "{price}", offerNamespace: shop, offerName: offer-{number}}}'


# ---- load ----


def wrk(url, seconds, uri=None):
    """Requests a second of 32 connections, closed loop; all answers must be of one class."""
    headers = {**FORWARDED, "X-Forwarded-Uri": uri} if uri else FORWARDED
    command = ["wrk", "-t1", "-c32", f"-d{seconds}s", *(f"-H{key}: {value}" for key, value in headers.items()), url]
    return wrk_rate(command)


def wrk_rate(command):
    report = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True).stdout
    total = int(re.search(r"(\d+) requests in", report)[1])
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", report)
    refused = int(refused[1]) if refused else 0
    if "Socket errors" in report or refused not in (0, total):
        raise RuntimeError(f"{command}: {report}")
    return float(re.search(r"Requests/sec:\s+([\d.]+)", report)[1])


class Sample:
    def __init__(self, line):
        url, started, latency, answer = line.split()
        self.url, self.status = int(url), int(answer)
        self.started, self.latency = int(started) / 1e6, int(latency) / 1e6


def paced_command(rate, seconds, urls, headers, lines=None):
    flags = [word for key, value in headers.items() for word in ("--header", f"{key}: {value}")]
    if lines:
        flags += ["--lines", f"payment-signature={lines}"]
    return [peer("paced"), *flags, str(rate), str(seconds), *urls]


def paced(rate, seconds, urls, headers, expected, lines=None):
    command = paced_command(rate, seconds, urls, headers, lines)
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return checked(out, expected)


def checked(out, expected):
    samples = [Sample(line) for line in out.splitlines()]
    strange = [sample.status for sample in samples if sample.status != expected]
    if strange or not samples:
        raise RuntimeError(f"{len(strange)} of {len(samples)} answers were not {expected} but {sorted(set(strange))}")
    return samples


def shows(verifier, number, price):
    _, _, body = verify(verifier, f"/services/offer-{number}/report")
    return f"{price} USDC".encode() in body


def scrape(verifier):
    """Seconds and bytes of one scrape, read as fast as a socket gives it: into one buffer, because making one for
    each read takes the reader as long as the page takes the verifier."""
    host, port = verifier.admin.split(":")
    buffer, size = bytearray(1 << 18), 0
    began = time.monotonic()
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"GET /metrics HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        while read := connection.recv_into(buffer):
            size += read
    return time.monotonic() - began, size
