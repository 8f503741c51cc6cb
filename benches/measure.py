#!/usr/bin/env python3
"""Measures the release binary against peers on this machine and writes docs/performance.md.

Called by benches/run.sh, after the builds and the micro benches, whose results are read from criterion's folder.

Everything shares one machine, load generator included, so absolute figures say little and ratios of one run are
the figures of record. Whatever is compared takes turns: wrk in short alternating runs, paced load request by
request. A figure is the median of its rounds.

Failure: whatever could not be measured is an exception and exit status 1. A figure that misses its target is not.
"""

import base64
import contextlib
import datetime
import http.client
import json
import math
import os
import pathlib
import platform
import re
import socket
import statistics
import subprocess
import sys
import tempfile
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


class Figures:
    """What was measured, in order, and which of it has a target."""

    def __init__(self):
        self.sections = []

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

    def markdown(self):
        lines = [
            "# Performance",
            "",
            "Written by `make bench` (`benches/measure.py`). Load generators, peers and the verifier share one machine, so the ratios of one run count; absolute figures are notes for this machine.",
            "",
            f"Measured {datetime.date.today()} on {machine()}; x402-verifier {version()}.",
        ]
        for title, conditions, rows in self.sections:
            lines += ["", f"## {title}", "", conditions, "", "| what | figure | target | | note |", "|---|---|---|---|---|"]
            lines += ["| " + " | ".join(row) + " |" for row in rows]
        return "\n".join(lines) + "\n"


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

    def wait_for(self, what, ready, limit=60, pause=0.002):
        """Polls with `pause` between until `ready` gives something true, and returns it."""
        end = time.monotonic() + limit
        while time.monotonic() < end:
            if self.process.poll() is not None:
                break
            found = ready()
            if found:
                return found
            time.sleep(pause)
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

    def __init__(self, folder, pricing):
        folder.mkdir()
        self.config = folder / "pricing.yaml"
        self.config.write_text(pricing)
        self.traffic, self.admin = free_address(), free_address()
        binary = target_folder() / "release/x402-verifier"
        flags = ["--config", self.config, "--listen", self.traffic, "--admin-listen", self.admin]
        started = time.monotonic()
        super().__init__("verifier", folder, [binary, "serve", *flags, "--ledger", f"sqlite:{folder}/ledger.db"])
        self.wait_for("readiness", lambda: status(self.admin, "/readyz") == 200)
        self.ready_after = time.monotonic() - started

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


FREE_AND_PAID = ["{pattern: /free, gate: free}", '{pattern: /paid, price: "0.001", description: A report}']


# ---- load ----


def wrk(url, seconds, uri=None):
    """Requests a second of 32 connections, closed loop; all answers must be of one class."""
    headers = {**FORWARDED, "X-Forwarded-Uri": uri} if uri else FORWARDED
    command = ["wrk", "-t1", "-c32", f"-d{seconds}s", *(f"-H{key}: {value}" for key, value in headers.items()), url]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    total = int(re.search(r"(\d+) requests in", report)[1])
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", report)
    refused = int(refused[1]) if refused else 0
    if "Socket errors" in report or refused not in (0, total):
        raise RuntimeError(f"{url}: {report}")
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


# ---- what is measured ----


def micro(figures):
    figures.section(
        "Decisions in isolation",
        "Criterion, one thread, no sockets; medians. A challenge is the whole 402, header and body, base64 included.",
    )

    def median(*path):
        file = target_folder().joinpath("criterion", *path, "new/estimates.json")
        return json.loads(file.read_text())["median"]["point_estimate"]

    for name, what in [("free", "a free route"), ("no_route", "a path without a route")]:
        few, many = median("decide", name, "10"), median("decide", name, str(LARGE))
        figures.add(f"decide, {what}, 10 routes", few, nanoseconds(few), (300, "300 ns"))
        figures.ratio(f"the same at {LARGE:,} routes", many / few, 2, note=nanoseconds(many))
    few, many = median("decide", "challenge", "10"), median("decide", "challenge", str(LARGE))
    encoding = median("base64 of what varies in a challenge")
    beyond = few - encoding
    figures.add("a challenge beyond its base64, 10 routes", beyond, nanoseconds(beyond), (1000, "1 µs"), note=f"{nanoseconds(few)} with it")
    figures.ratio(f"a challenge at {LARGE:,} routes", many / few, 2, note=nanoseconds(many))
    decode = median("decode payment")
    figures.add("decode a payment", decode, nanoseconds(decode), (3000, "3 µs"))


def throughput(figures, folder):
    seconds, rounds = (1, 1) if QUICK else (4, 4)
    figures.section(
        "402s a second",
        f"`wrk -t1 -c32 -d{seconds}s`, keep-alive, the same request headers to all, {rounds} rounds in turn, medians.",
    )
    with contextlib.ExitStack() as parts:
        ours = parts.enter_context(Verifier(folder / "throughput", pricing(FREE_AND_PAID)))
        answer = verify(ours, "/paid")
        replay = recorded(folder, "402", answer)
        static = parts.enter_context(Part("static402", folder, [peer("axum-static"), 0, *replay])).address()
        same_answer(answer, get(static, "/"))
        facilitator = parts.enter_context(Part("facilitator", folder, [peer("yes-facilitator"), 0, 0])).address()
        paygate = parts.enter_context(Part("paygate", folder, [peer("paygate"), 0, f"http://{facilitator}"])).address()
        node = [PARTS / "node.sh", "v2", "servers/resource.mjs", 0, f"http://{facilitator}"]
        express = parts.enter_context(Part("express", folder, node)).address()
        targets = {
            "ours": (ours.url(), "/paid"),
            "static": (f"http://{static}/verify", "/paid"),
            "paygate": (f"http://{paygate}/paid", None),
            "express": (f"http://{express}/paid", None),
        }
        for address, path in [(paygate, "/paid"), (express, "/paid")]:
            if get(address, path)[0] != 402:
                raise RuntimeError(f"{address} does not answer 402")
        rates = {name: [] for name in targets}
        for name, (url, uri) in targets.items():
            wrk(url, 1, uri)
        for _ in range(rounds):
            for name, (url, uri) in targets.items():
                rates[name].append(wrk(url, seconds, uri))
        after_load = ours.memory("VmRSS")
    rate = {name: statistics.median(values) for name, values in rates.items()}

    def note(name):
        return f"{rate['ours']:,.0f} against {rate[name]:,.0f} a second"

    figures.ratio("a bare axum handler with the same bytes", rate["ours"] / rate["static"], 0.85, True, note("static"))
    figures.ratio("the `x402-axum` paygate", rate["ours"] / rate["paygate"], 1, True, note("paygate"))
    figures.ratio("the official Express middleware", rate["ours"] / rate["express"], 8, True, note("express"))
    figures.add("RSS after this load", after_load, f"{after_load:.1f} MiB")


TRAEFIK = """
global: {{checkNewVersion: false, sendAnonymousUsage: false}}
log: {{level: ERROR}}
entryPoints:
{entrypoints}
providers: {{file: {{filename: {dynamic}, watch: false}}}}
"""


def traefik(figures, folder):
    rate, seconds, rounds = (200, 1, 1) if QUICK else (1000, 5, 5)
    figures.section(
        "Through Traefik",
        f"forwardAuth with the documented headers, {rate} requests a second for {seconds} s, {rounds} rounds. Every other request goes to an entry point whose auth server is bare axum and always answers our bytes. Medians of the rounds' ratios.",
    )
    with contextlib.ExitStack() as parts:
        ours = parts.enter_context(Verifier(folder / "traefik", pricing(FREE_AND_PAID)))
        auth = {"ours": ours.url()}
        for name, uri in [("free", "/free"), ("paid", "/paid")]:
            answer = verify(ours, uri)
            replay = recorded(folder, f"traefik-{name}", answer)
            static = parts.enter_context(Part(f"auth-{name}", folder, [peer("axum-static"), 0, *replay])).address()
            same_answer(answer, get(static, "/"))
            auth[name] = f"http://{static}/verify"
        upstream = parts.enter_context(Part("upstream", folder, [peer("axum-static"), 0, 200])).address()

        entry = {name: free_address() for name in auth}
        entrypoints = "\n".join(f'  {name}: {{address: "{address}"}}' for name, address in entry.items())
        dynamic = {
            "http": {
                "routers": {
                    name: {"rule": "PathPrefix(`/`)", "entryPoints": [name], "middlewares": [name], "service": "up"}
                    for name in auth
                },
                "middlewares": {name: {"forwardAuth": forward_auth(address)} for name, address in auth.items()},
                "services": {"up": {"loadBalancer": {"servers": [{"url": f"http://{upstream}"}]}}},
            }
        }
        (folder / "dynamic.yml").write_text(json.dumps(dynamic))  # JSON is YAML
        (folder / "traefik.yml").write_text(TRAEFIK.format(entrypoints=entrypoints, dynamic=folder / "dynamic.yml"))
        command = [TOOLS / "traefik/bin/traefik", f"--configFile={folder}/traefik.yml"]
        proxy = parts.enter_context(Part("traefik", folder, command))
        proxy.wait_for("its routers", lambda: status(entry["ours"], "/free") == 200)

        for name, expected, what in [("free", 200, "free, with the upstream"), ("paid", 402, "402")]:
            urls = [f"http://{entry['ours']}/{name}", f"http://{entry[name]}/{name}"]
            paced(rate, 1, urls, {}, expected)
            halves = []
            for _ in range(rounds):
                samples = paced(rate, seconds, urls, {}, expected)
                halves.append([[s.latency for s in samples if s.url == side] for side in (0, 1)])
            for share in (0.5, 0.99):
                mine, theirs = ([percentile(half[side], share) for half in halves] for side in (0, 1))
                value = statistics.median(a / b for a, b in zip(mine, theirs))
                note = f"{milliseconds(statistics.median(mine))} against {milliseconds(statistics.median(theirs))}"
                if share == 0.99:
                    note += f"; rounds {', '.join(f'{a / b:.2f}' for a, b in zip(mine, theirs))}"
                    figures.ratio(f"{what}, p99", value, 1.05, note=note)
                else:
                    figures.add(f"{what}, p50", value, f"{value:.2f}x", note=note)


def forward_auth(address):
    """As in examples/traefik-dynamic.yml."""
    names = ["Authorization", "X-Payment-Payer", "X-Verified-Wallet", "Payment-Response", "X-Payment-Response"]
    return {
        "address": address,
        "trustForwardHeader": False,
        "maxResponseBodySize": 65536,
        "authResponseHeaders": [*names, "Payment-Signature", "X-Payment"],
    }


def paid(figures, folder):
    rate, seconds = (20, 1) if QUICK else (50, 10)
    figures.section(
        "Paid requests",
        f"Real EIP-3009 payments, signed before, each good for one request, {rate} a second for {seconds} s straight to `/verify`, ledger on disk. Added is the whole answer less what the facilitator's two calls took, request by request.",
    )
    for delay in (0, 50, 300):
        with contextlib.ExitStack() as parts:
            held_by = parts.enter_context(Part(f"facilitator-{delay}", folder, [peer("yes-facilitator"), 0, delay]))
            facilitator = held_by.address()
            document = pricing(FREE_AND_PAID, f"http://{facilitator}")
            ours = parts.enter_context(Verifier(folder / f"paid-{delay}", document))
            challenge = dict((key.lower(), value) for key, value in verify(ours, "/paid")[1])["payment-required"]
            (folder / "challenge.json").write_bytes(base64.b64decode(challenge))
            headers = {**FORWARDED, "X-Forwarded-Uri": "/paid"}
            for warming in (True, False):
                count = rate if warming else rate * seconds
                sign = [peer("payments"), str(count), folder / "challenge.json"]
                payments = subprocess.run(sign, capture_output=True, text=True, check=True).stdout
                (folder / "payments").write_text(payments)
                samples = paced(rate, 1 if warming else seconds, [ours.url()], headers, 200, folder / "payments")
            held = json.loads(get(facilitator, "/held")[2])
        nonces = [json.loads(base64.b64decode(line))["payload"]["authorization"]["nonce"] for line in payments.split()]
        added = [sample.latency - held[nonce] / 1e6 for sample, nonce in zip(samples, nonces, strict=True)]
        whole = [sample.latency for sample in samples]
        median, slow = percentile(added, 0.5), percentile(added, 0.99)
        note = f"whole answers: p50 {milliseconds(percentile(whole, 0.5))}, p99 {milliseconds(percentile(whole, 0.99))}"
        figures.add(f"added p50, facilitator {delay} ms", median, milliseconds(median), note=note)
        figures.add(f"added p99, facilitator {delay} ms", slow, milliseconds(slow))


def small(figures, folder):
    figures.section("Start and memory, 100 routes", "File source, SQLite ledger, nothing asked yet; medians of 3 starts.")
    starts, sizes = [], []
    for attempt in range(3):
        with Verifier(folder / f"small-{attempt}", pricing(offer(n) for n in range(100))) as ours:
            starts.append(ours.ready_after)
            time.sleep(0.2 if QUICK else 2)
            sizes.append(ours.memory("VmRSS"))
    size, start = statistics.median(sizes), statistics.median(starts)
    figures.add("idle RSS", size, f"{size:.1f} MiB", (20, "20 MiB"))
    figures.add("start to ready", start, milliseconds(start), (1, "1 s"))


def large(figures, folder):
    routes = 2_000 if QUICK else LARGE
    rate, edits = (200, 2) if QUICK else (500, 6)
    figures.section(
        f"{routes:,} routes in one file",
        f"{edits} edits of one line, each by rename, while {rate} requests a second get a 402. A request counts as meanwhile when it was under way between an edit and 0.3 s after it was live.",
    )
    lines = [offer(number) for number in range(routes)]
    with Verifier(folder / "large", pricing(lines)) as ours:
        figures.add("start to ready", ours.ready_after, milliseconds(ours.ready_after), (5, "5 s"))
        # What a start leaves to do (the ledger takes all paths) ends first.
        time.sleep(1 if QUICK else 8)
        rss = ours.memory("VmRSS")
        headers = {**FORWARDED, "X-Forwarded-Uri": "/services/offer-7/report"}
        pause = 1.2
        length = 1 + edits * (pause + 1)
        load = subprocess.Popen(
            paced_command(rate, length, [ours.url()], headers), stdout=subprocess.PIPE, text=True
        )
        time.sleep(1)
        windows, delays = [], []
        for edit in range(edits):
            price = f"0.00{edit + 2}"
            lines[-1] = offer(routes - 1, price)
            replacement = ours.config.with_suffix(".new")
            replacement.write_text(pricing(lines))
            began = time.time()
            replacement.rename(ours.config)
            # Asked seldom: what a question costs here is taken from the verifier's two cores.
            live = ours.wait_for(
                "an edit", lambda p=price: shows(ours, routes - 1, p) and time.time(), 30, pause=0.01
            )
            delays.append(live - began)
            windows.append((began, live + 0.3))
            time.sleep(pause)
        samples = checked(load.communicate()[0], 402)
        peak = ours.memory("VmHWM")
        scrapes = [scrape(ours) for _ in range(5)]
        grown = ours.memory("VmHWM") - peak

    meanwhile, quiet = [], []
    for sample in samples:
        end = sample.started + sample.latency
        inside = any(sample.started <= close and end >= begin for begin, close in windows)
        (meanwhile if inside else quiet).append(sample.latency)
    delay = statistics.median(delays)
    figures.add("one line changed to live", delay, milliseconds(delay), (0.5, "500 ms"), note=f"slowest {milliseconds(max(delays))}")
    for name, share in [("p50", 0.5), ("p99", 0.99), ("slowest", 1)]:
        during, otherwise = percentile(meanwhile, share), percentile(quiet, share)
        note = f"{milliseconds(during)} of {len(meanwhile)} against {milliseconds(otherwise)} of {len(quiet)}"
        what = f"402s meanwhile, {name}"
        if name == "p50":
            figures.add(what, during / otherwise, f"{during / otherwise:.2f}x", note=note)
        else:
            figures.ratio(what, during / otherwise, 2, note=note)
    took = statistics.median(seconds for seconds, _ in scrapes)
    note = f"{scrapes[0][1] / 2**20:.1f} MiB of text; five scrapes raised the peak RSS by {max(grown, 0):.1f} MiB"
    figures.add("`/metrics`", took, milliseconds(took), (0.25, "250 ms"), note=note)
    figures.add("RSS", rss, f"{rss:.0f} MiB", note=f"{rss * 1024 / routes:.2f} KiB a route; peak with reloads {peak:.0f} MiB")


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


def main():
    figures = Figures()
    only = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="x402-bench-") as name:
        folder = pathlib.Path(name)
        sections = [
            ("micro", lambda: micro(figures)),
            ("throughput", lambda: throughput(figures, folder)),
            ("traefik", lambda: traefik(figures, folder)),
            ("paid", lambda: paid(figures, folder)),
            ("small", lambda: small(figures, folder)),
            ("large", lambda: large(figures, folder)),
        ]
        for title, measure in sections:
            if not only or title in only:
                measure()
    whole = not QUICK and not only
    report = ROOT / "docs/performance.md" if whole else target_folder() / "performance.md"
    report.write_text(figures.markdown())
    print(f"\nwritten to {report}")


if __name__ == "__main__":
    main()
