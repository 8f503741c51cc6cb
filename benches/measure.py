#!/usr/bin/env python3
"""Measures the release binary against peers on this machine and writes docs/performance.md.

Called by benches/run.sh, after the builds and the micro benches, whose results are read from criterion's folder.

Everything shares one machine, load generator included, so absolute figures say little and ratios of one run are
the figures of record. Whatever is compared takes turns: wrk in short alternating runs, paced load request by
request. A figure is the median of its rounds.

Failure: whatever could not be measured is an exception and exit status 1. A figure that misses its target is not.

`measure.py SECTION...` measures those alone and leaves the other sections of the report as they are.
"""

import base64
import contextlib
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import kube
from rig import (
    FORWARDED,
    LARGE,
    PARTS,
    QUICK,
    ROOT,
    TOOLS,
    Figures,
    Part,
    Verifier,
    checked,
    free_address,
    get,
    milliseconds,
    nanoseconds,
    offer,
    paced,
    paced_command,
    peer,
    percentile,
    pricing,
    recorded,
    same_answer,
    scrape,
    shows,
    status,
    target_folder,
    verify,
    wrk,
)

FREE_AND_PAID = ["{pattern: /free, gate: free}", '{pattern: /paid, price: "0.001", description: A report}']

def micro(figures):
    figures.section(
        "Decisions in isolation",
        "Criterion, one thread, no sockets: the fastest tenth of the samples ends at this figure, medians are in the notes. A shared machine runs the same code up to 1.7 times slower for seconds at a time, and a median says which of the two was caught. A challenge is the whole 402, header and body, base64 included.",
    )

    def samples(*path):
        file = target_folder().joinpath("criterion", *path, "new/sample.json")
        sample = json.loads(file.read_text())
        times = [time / count for time, count in zip(sample["times"], sample["iters"])]
        return percentile(times, 0.1), f"median {nanoseconds(statistics.median(times))}"

    for name, what in [("free", "a free route"), ("no_route", "a path without a route")]:
        few, note = samples("decide", name, "10")
        figures.add(f"decide, {what}, 10 routes", few, nanoseconds(few), (300, "300 ns"), note=note)
        many, note = samples("decide", name, str(LARGE))
        figures.ratio(f"the same at {LARGE:,} routes", many / few, 2, note=f"{nanoseconds(many)}, {note}")
    few, note = samples("decide", "challenge", "10")
    encoding, _ = samples("base64 of what varies in a challenge")
    beyond = few - encoding
    figures.add("a challenge beyond its base64, 10 routes", beyond, nanoseconds(beyond), (1000, "1 µs"), note=f"{nanoseconds(few)} with it, {note}")
    many, note = samples("decide", "challenge", str(LARGE))
    figures.ratio(f"a challenge at {LARGE:,} routes", many / few, 2, note=f"{nanoseconds(many)}, {note}")
    decode, note = samples("decode payment")
    figures.add("decode a payment", decode, nanoseconds(decode), (3000, "3 µs"), note=note)


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
                "an edit", lambda p=price: shows(ours, routes - 1, p) and time.time(), 30, every=0.01
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
            ("kube", lambda: kube.measure(figures, folder)),
        ]
        for title, measure in sections:
            if not only or title in only:
                measure()
    report = (target_folder() if QUICK else ROOT / "docs") / "performance.md"
    figures.write(report, is_whole=not only)
    print(f"\nwritten to {report}")


if __name__ == "__main__":
    main()
