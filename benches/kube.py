"""Measures 10,000 and 100,000 ServiceOffers at a real kube-apiserver, and at a real Prometheus.

etcd, kube-apiserver and kubectl are those of `make tools`, on loopback, without audit log. Offers are made through
the API by its administrator, whom no fairness queue delays. The verifier is the release binary with its defaults: it
writes status. A restarted one finds its status written, which is what a restart finds in the field.

Every figure of a change counts from before the request that makes it to the first answer of /verify that shows it.

X402_BENCH_QUICK=1 takes a few hundred offers, X402_SOAK=1 keeps changing offers for ten minutes.
"""

import concurrent.futures
import contextlib
import http.client
import json
import os
import random
import re
import ssl
import statistics
import subprocess
import threading
import time
import urllib.parse

from rig import (
    FORWARDED,
    QUICK,
    ROOT,
    TOOLS,
    WALLET,
    Part,
    Verifier,
    free_address,
    get,
    milliseconds,
    pricing,
    scrape,
    wrk_rate,
)

SIZES = (300, 1_000) if QUICK else (10_000, 100_000)
FEW = 10
CHURN = 600 if os.environ.get("X402_SOAK") == "1" else 3 if QUICK else 60  # seconds
PAGE = 500
TOKEN = "admin-token"
CERTIFICATES = ROOT / "tests/it/parts/control_plane"
OFFERS = "/apis/obol.org/v1alpha1/serviceoffers"


# ---- the control plane ----


class ControlPlane:
    """etcd and kube-apiserver with our CRD, as a context."""

    def __init__(self, folder):
        self.folder = folder
        self.parts = contextlib.ExitStack()

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            # Nobody else ends what was begun.
            self.parts.close()
            raise
        return self

    def start(self):
        folder = self.folder
        folder.mkdir()
        client, peer, self.address = (free_address() for _ in range(3))
        (folder / "tokens.csv").write_text(f'{TOKEN},admin,admin,"system:masters"\n')
        self.kubeconfig = folder / "kubeconfig"
        cluster = {"server": f"https://{self.address}", "certificate-authority": str(CERTIFICATES / "ca.pem")}
        self.kubeconfig.write_text(
            json.dumps({
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "bench",
                "clusters": [{"name": "bench", "cluster": cluster}],
                "users": [{"name": "bench", "user": {"token": TOKEN}}],
                "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}],
            })
        )
        etcd = [
            f"--data-dir={folder}/etcd",
            "--log-level=warn",
            "--unsafe-no-fsync",
            "--quota-backend-bytes=8589934592",
            f"--listen-client-urls=http://{client}",
            f"--advertise-client-urls=http://{client}",
            f"--listen-peer-urls=http://{peer}",
            f"--initial-advertise-peer-urls=http://{peer}",
            f"--initial-cluster=default=http://{peer}",
        ]
        key = CERTIFICATES / "server-key.pem"
        api = [
            f"--etcd-servers=http://{client}",
            "--bind-address=127.0.0.1",
            "--authorization-mode=RBAC",
            f"--secure-port={self.address.split(':')[1]}",
            f"--cert-dir={folder}/certs",
            f"--tls-cert-file={CERTIFICATES}/server.pem",
            f"--tls-private-key-file={key}",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--disable-admission-plugins=ServiceAccount",
            f"--token-auth-file={folder}/tokens.csv",
        ]
        self.parts.enter_context(Part("etcd", folder, [tool("etcd"), *etcd]))
        server = self.parts.enter_context(Part("kube-apiserver", folder, [tool("kube-apiserver"), *api]))
        server.wait_for("readiness", lambda: self.answers("/readyz"), 120, 0.1)
        binary = Verifier.binary()
        crd = subprocess.run([binary, "crd"], capture_output=True, check=True).stdout
        self.kubectl("apply", "--server-side", "-f", "-", input=crd)
        server.wait_for("the CRD", lambda: self.answers(f"{OFFERS}?limit=1"), 60, 0.1)

    def __exit__(self, *_):
        self.parts.close()

    def answers(self, path):
        try:
            return Api(self).request("GET", path)[0] == 200
        except OSError:
            return False

    def kubectl(self, *words, input=None):
        command = [tool("kubectl"), f"--kubeconfig={self.kubeconfig}", *words]
        return subprocess.run(command, input=input, capture_output=True, check=True).stdout

    def verifier(self, folder, *further, per_offer="all"):
        document = f"metrics: {{perOffer: {per_offer}}}\n" + pricing([]).replace("routes:\n", "routes: []\n")
        flags = ["--route-source", "kube", "--kubeconfig", self.kubeconfig, *further]
        # Whoever asks often takes the time from the list that it waits for.
        return Verifier(folder, document, *flags, every=0.02)


class Api:
    """One connection of the administrator."""

    def __init__(self, control):
        host, port = control.address.split(":")
        self.connection = http.client.HTTPSConnection(host, int(port), timeout=120, context=tls())

    def request(self, method, path, body=None, kind="application/json"):
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": kind}
        self.connection.request(method, path, body, headers)
        answer = self.connection.getresponse()
        return answer.status, answer.read()

    def must(self, *request):
        status, body = self.request(*request)
        if status >= 300:
            raise RuntimeError(f"{request[:2]}: {status} {body[:500]}")
        return body


def tls():
    return ssl.create_default_context(cafile=CERTIFICATES / "ca.pem")


def tool(name):
    path = TOOLS / "kube" / name
    if not path.exists():
        raise RuntimeError(f"{path} is not there: run `make tools`")
    return path


# ---- offers ----


def namespace(number):
    """The first few are alone in theirs, to be watched alone."""
    return "few" if number < FEW else f"shop-{number % 100:02}"


def name(number):
    return f"offer-{number:06}"


def path(number):
    return f"/services/{name(number)}/report"


def address(number):
    return f"/apis/obol.org/v1alpha1/namespaces/{namespace(number)}/serviceoffers/{name(number)}"


def create(api, number, price="0.001"):
    upstream = {"service": "web", "namespace": namespace(number), "port": 8080, "healthPath": "/health"}
    payment = {"scheme": "exact", "network": "base-sepolia", "payTo": WALLET, "price": {"perRequest": price}}
    spec = {"type": "http", "path": f"/services/{name(number)}", "upstream": upstream, "payment": payment}
    metadata = {"namespace": namespace(number), "name": name(number)}
    body = {"apiVersion": "obol.org/v1alpha1", "kind": "ServiceOffer", "metadata": metadata, "spec": spec}
    api.must("POST", address(number).rsplit("/", 1)[0], json.dumps(body))


def reprice(api, number, price):
    patch = {"spec": {"payment": {"price": {"perRequest": price}}}}
    api.must("PATCH", address(number), json.dumps(patch), "application/merge-patch+json")


def in_parallel(control, numbers, work, threads=16):
    """`work(api, number)` for all, each thread with a connection of its own."""
    numbers = list(numbers)

    def run(share):
        api = Api(control)
        for number in share:
            work(api, number)

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(run, numbers[first::threads]) for first in range(threads)]:
            done.result()


def fill(control, numbers):
    began = time.monotonic()
    in_parallel(control, numbers, create)
    rate = len(numbers) / (time.monotonic() - began)
    print(f"  made {len(numbers):,} offers, {rate:,.0f} a second", flush=True)


# ---- lists ----


def kubectl_pages(control):
    """Seconds of `kubectl get --raw` of all pages; all that is looked at is the token of the next."""
    began = time.monotonic()
    token = ""
    while True:
        page = control.kubectl("get", "--raw", page_path(token))
        token = token_of(page[-2000:])
        if not token:
            return time.monotonic() - began


def socket_pages(control):
    """Seconds and bytes of the same pages over one connection."""
    api = Api(control)
    began, size, token = time.monotonic(), 0, ""
    while True:
        page = api.must("GET", page_path(token))
        size += len(page)
        token = token_of(page[-2000:])
        if not token:
            return time.monotonic() - began, size


def page_path(token):
    return f"{OFFERS}?limit={PAGE}" + (f"&continue={urllib.parse.quote(token)}" if token else "")


def token_of(end):
    found = re.search(rb'"continue":"([^"]*)"', end)
    return found[1].decode() if found else ""


# ---- what is measured ----


def measure(figures, folder):
    with ControlPlane(folder / "kube") as control:
        api = Api(control)
        for namespace_name in ["few", *(f"shop-{number:02}" for number in range(100))]:
            api.must("POST", "/api/v1/namespaces", json.dumps({"metadata": {"name": namespace_name}}))
        with control.verifier(folder / "none") as ours:
            time.sleep(1 if QUICK else 5)
            empty = ours.memory("VmRSS")
        made = 0
        for size in SIZES:
            figures.section(
                f"{size:,} offers of a cluster",
                f"kube-apiserver 1.35 and etcd on the same {os.cpu_count()} cores, status written by the verifier. Medians; the slowest is in the note.",
            )
            fill(control, range(made, size))
            made = size
            is_large = size == SIZES[-1]
            write_status(figures, control, folder, size)
            page = ready(figures, control, folder, size)
            build(figures, size, is_large)
            with control.verifier(folder / f"changes-{size}") as ours:
                changes(figures, control, ours, size, is_large)
                metrics(figures, ours, is_large)
                if is_large:
                    memory(figures, control, ours, size, empty, page)
                    throughput(figures, control, ours, folder, size)
                else:
                    prometheus(figures, ours, folder, size)
            if is_large:
                active = FEW if QUICK else SIZES[0]
                with control.verifier(folder / "active", "--status=false", per_offer="active") as ours:
                    ask_all(ours, active)
                    prometheus(figures, ours, folder, size, active)


def write_status(figures, control, folder, size):
    """The first start after the offers were made; every condition is written once."""
    with control.verifier(folder / f"status-{size}", per_offer="none") as ours:

        def written():
            page = get(ours.admin, "/metrics")[2].decode()
            return int(float(re.search(r'status_writes_total\{result="written"\} (\S+)', page)[1]))

        began, before = time.monotonic(), -1
        while (now := written()) > before or time.monotonic() - began < 5:
            before = now
            time.sleep(3 if not QUICK else 2)
        took = time.monotonic() - began
        figures.add("conditions written at the first start", before, f"{before:,} in {took:.0f} s")


def ready(figures, control, folder, size):
    """Returns how many bytes of JSON an offer has.

    kubectl starts a process for each page, which is slow; the second row is the stricter peer: a loop in Python that
    asks for page after page over one connection.
    """
    rounds = 1 if QUICK else 3
    socket_pages(control)
    starts, pages, plain = [], [], []
    for attempt in range(rounds):
        pages.append(kubectl_pages(control))
        seconds, total = socket_pages(control)
        plain.append(seconds)
        with control.verifier(folder / f"ready-{size}-{attempt}") as ours:
            starts.append(ours.ready_after)
    mine, kubectl, one = (statistics.median(values) for values in (starts, pages, plain))
    figures.ratio(
        "start to ready against `kubectl get --raw`, page by page",
        mine / kubectl,
        1.5,
        note=f"{milliseconds(mine)} against {milliseconds(kubectl)}; slowest start {milliseconds(max(starts))}",
    )
    note = f"{milliseconds(one)}, {total / 2**20:.1f} MiB"
    figures.ratio("the same pages over one connection, bytes thrown away", mine / one, 1.5, note=note)
    return total / size


def build(figures, size, is_large):
    """benches/table.rs, built by run.sh: the table alone."""
    command = ["cargo", "bench", "--locked", "--quiet", "--bench", "table", "--", "cluster", str(size)]
    line = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    numbers = {kind: float(re.search(rf"{kind} ([\d.]+)", line)[1]) for kind in ("nothing", "change", "addition", "removal")}
    for kind in ("change", "addition", "removal"):
        seconds = numbers[kind] / 1000
        target = None if is_large else (0.02, "20 ms")
        figures.add(f"table build, {kind}", seconds, milliseconds(seconds), target)
    figures.add("table build from nothing", numbers["nothing"], milliseconds(numbers["nothing"] / 1000))


def changes(figures, control, ours, size, is_large):
    """Times one change at a time, of a kind after the other."""
    rounds = 3 if QUICK else 9
    api = Api(control)
    probe = connection(ours)

    def answer(number):
        probe.request("GET", "/verify", headers={**FORWARDED, "X-Forwarded-Uri": path(number)})
        response = probe.getresponse()
        return response.status, response.read()

    def time_of(change, shows):
        time.sleep(0.1 if QUICK else 1)
        began = time.monotonic()
        change()
        while not shows():
            time.sleep(0.001)
            if time.monotonic() - began > 30:
                raise RuntimeError("a change is not live after 30 s")
        return time.monotonic() - began

    kinds = {"a price": [], "an offer more": [], "an offer less": []}
    for attempt in range(rounds):
        number = size // 2 + attempt
        price = f"0.00{attempt + 2}1"
        new = 900_000 + size + attempt
        kinds["a price"].append(
            time_of(lambda: reprice(api, number, price), lambda: f"{price} USDC".encode() in answer(number)[1])
        )
        kinds["an offer more"].append(time_of(lambda: create(api, new), lambda: answer(new)[0] == 402))
        kinds["an offer less"].append(time_of(lambda: api.must("DELETE", address(new)), lambda: answer(new)[0] == 410))
    for kind, delays in kinds.items():
        delay = statistics.median(delays)
        target = (0.25, "250 ms") if is_large else (0.1, "100 ms")
        note = f"slowest {milliseconds(max(delays))}; the API server's own part included"
        figures.add(f"a change to live, {kind}", delay, milliseconds(delay), target, note=note)


def metrics(figures, ours, is_large):
    peak = ours.memory("VmHWM")
    scrapes = [scrape(ours) for _ in range(5)]
    grown = max(0, ours.memory("VmHWM") - peak)
    took = statistics.median(seconds for seconds, _ in scrapes)
    note = f"{scrapes[0][1] / 2**20:.1f} MiB of text; five scrapes raised the peak RSS by {grown:.1f} MiB"
    figures.add("`/metrics`", took, milliseconds(took), (0.25, "250 ms") if is_large else None, note=note)


def memory(figures, control, ours, size, empty, page):
    """Changes offers for a while, and looks what is left. Sellers ask for round prices: there are 999 of them."""
    before = ours.memory("VmRSS")
    rate, threads = 50, 10
    end = time.monotonic() + CHURN
    done = []

    def change(share):
        api, generator = Api(control), random.Random(share)
        while (began := time.monotonic()) < end:
            reprice(api, generator.randrange(FEW, size), f"0.{generator.randrange(1, 1000):03}")
            done.append(1)
            time.sleep(max(0, threads / rate - (time.monotonic() - began)))

    began = time.monotonic()
    workers = [threading.Thread(target=change, args=(share,)) for share in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    reached = len(done) / (time.monotonic() - began)
    # The allocator gives back what is free for ten seconds.
    time.sleep(1 if QUICK else 15)
    after = ours.memory("VmRSS")
    each = (after - empty) * 2**20 / size
    note = (
        f"RSS {after:.0f} MiB, {empty:.0f} without offers, {before:.0f} before {CHURN} s of {reached:.0f} changes a second, "
        f"peak {ours.memory('VmHWM'):.0f}; {each:,.0f} bytes an offer, of which its JSON as served is {page:,.0f}"
    )
    figures.add("memory an offer beyond its JSON", each - page, f"{each - page:,.0f} bytes", (1024, "1 KiB"), note=note)


LUA = """
local requests = {{}}
for number = 0, {count} - 1 do
  requests[number] = wrk.format("GET", "/verify", {{
    ["X-Forwarded-Method"] = "GET", ["X-Forwarded-Proto"] = "https", ["X-Forwarded-Host"] = "shop.example",
    ["X-Forwarded-For"] = "192.0.2.7",
    ["X-Forwarded-Uri"] = string.format("/services/offer-%06d/report", number),
  }})
end
local number = 0
request = function()
  number = (number + 7919) % {count}
  return requests[number]
end
"""


def throughput(figures, control, many, folder, size):
    """402s over all offers in turn, of which there are few or many."""
    seconds, rounds = (1, 1) if QUICK else (4, 5)
    flags = ["--watch-namespaces", "few", "--status=false"]
    with control.verifier(folder / "few", *flags) as few:
        commands, rates = {}, {}
        for count, ours in ((FEW, few), (size, many)):
            script = folder / f"{count}.lua"
            script.write_text(LUA.format(count=count))
            commands[count] = lambda length, ours=ours, script=script: [
                "wrk", "-t1", "-c32", f"-d{length}s", "-s", script, f"http://{ours.traffic}"
            ]  # fmt: skip
            rates[count] = []
            wrk_rate(commands[count](1))
        for _ in range(rounds):
            for count, command in commands.items():
                rates[count].append(wrk_rate(command(seconds)))
    rate = {count: statistics.median(values) for count, values in rates.items()}
    figures.ratio(
        f"402s a second, of {size:,} offers against {FEW}",
        rate[size] / rate[FEW],
        0.9,
        True,
        f"{rate[size]:,.0f} against {rate[FEW]:,.0f}, offers in turn; rounds "
        + ", ".join(f"{a / b:.2f}" for a, b in zip(rates[size], rates[FEW])),
    )


def connection(ours):
    host, port = ours.traffic.split(":")
    return http.client.HTTPConnection(host, int(port), timeout=30)


def ask_all(ours, count):
    """One unpaid request for each of the first offers."""
    probe = connection(ours)
    for number in range(count):
        probe.request("GET", "/verify", headers={**FORWARDED, "X-Forwarded-Uri": path(number)})
        response = probe.getresponse()
        if (response.status, len(response.read()) > 0) != (402, True):
            raise RuntimeError(f"{path(number)}: {response.status}")


def prometheus(figures, ours, folder, size, active=None):
    """What a real Prometheus says of its scrapes."""
    interval = 2 if size == SIZES[0] else 12
    place = folder / f"prometheus-{size}"
    place.mkdir()
    (place / "prometheus.yml").write_text(
        f"global: {{scrape_interval: {interval}s, scrape_timeout: {interval}s}}\n"
        f"scrape_configs: [{{job_name: verifier, static_configs: [{{targets: ['{ours.admin}']}}]}}]\n"
    )
    web = free_address()
    flags = [f"--config.file={place}/prometheus.yml", f"--storage.tsdb.path={place}/data", f"--web.listen-address={web}"]
    with Part(f"prometheus-{size}", folder, ["prometheus", *flags, "--log.level=warn"]) as server:

        def values(query):
            try:
                answer = get(web, f"/api/v1/query?query={urllib.parse.quote(query)}")
            except OSError:
                return []
            result = json.loads(answer[2])["data"]["result"] if answer[0] == 200 else []
            return [float(value) for _, value in result[0]["values"]] if result else []

        def thrice():
            up = values("up[10m]")
            return len(up) >= 3 and up

        up = server.wait_for("three scrapes", thrice, 120, 0.5)
        if min(up) < 1:
            raise RuntimeError(f"a scrape failed: {up}")
        durations, samples = values("scrape_duration_seconds[10m]"), values("scrape_samples_scraped[10m]")
        rss = server.memory("VmRSS")
    slowest, series = max(durations), max(samples)
    what = f" with `metrics.perOffer: active`, {active:,} asked for" if active else ""
    limit = 10 if active else 1
    bound = None if active else (99_999, "99,999")
    figures.add(f"series at Prometheus{what}", series, f"{series:,.0f}", bound, note=f"its RSS {rss:.0f} MiB")
    note = f"the first of {len(durations)}; later {milliseconds(statistics.median(durations[1:]))}"
    figures.add(f"slowest scrape by Prometheus{what}", slowest, milliseconds(slowest), (limit, f"{limit} s"), note=note)
