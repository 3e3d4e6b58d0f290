"""Hours, requests, bytes and dollars of a large run: the tables of docs/src/scaling.md, from parameters.

    python3 scripts/scaling_costs.py                              # the tables with the defaults, as the page has them
    python3 scripts/scaling_costs.py --images 2e9 --workers 400 --images-per-second 120 --gpu-dollars 1.9
    python3 scripts/scaling_costs.py --check docs/src/scaling.md  # exit code 1 if the page has other tables
    python3 scripts/scaling_costs.py --write docs/src/scaling.md  # puts them into the page

Every constant says where it comes from: "measured" with the command that prints it, "published" with the page, "assumed".
"""
import argparse, dataclasses, math, pathlib, sys


@dataclasses.dataclass
class Plan:
    """What is to be done, with what. The flags have these names."""

    images: float = 1e9
    workers: int = 1000
    images_per_shard: int = 10_000
    bytes_per_image: float = 100e3  # assumed: JPEGs of 384 to 512 pixels
    images_per_second: float = 300.0  # of one worker; see RATES
    gpu_dollars: float = 2.8  # per hour of one worker; see PRICES
    claim_seconds: float = 20.0

    @property
    def shards(self) -> int:
        return math.ceil(self.images / self.images_per_shard)

    @property
    def shard_seconds(self) -> float:
        return self.images_per_shard / self.images_per_second

    @property
    def hours(self) -> float:
        """Without tail, deaths and planning: simulate_fleet says what these add."""
        return self.images / self.images_per_second / self.workers / 3600

    @property
    def heartbeats_per_second(self) -> float:
        """PUTs of all workers."""
        return self.workers * HEARTBEATS / (MEAN_PAUSE * self.claim_seconds)

    @property
    def worker_listings_per_second(self) -> float:
        """Pages of the listings by which all workers see each other."""
        heartbeat = self.claim_seconds / HEARTBEATS
        interval = HEARTBEATS * min(heartbeat * math.ceil(self.workers / PEERS_PER_HEARTBEAT), max(self.claim_seconds, heartbeat))
        return self.workers * math.ceil(self.workers / PAGE) / interval

    @property
    def worker_hours(self) -> float:
        return self.hours * self.workers


# Images per second: benchmarks/README.md. CPU: `make bench-open-clip`, two cores of an EPYC, greedy, 30 tokens. GPU: an earlier version on
# one H100, whose captions were wrong; the present version was not run on a GPU, and 1,000 is what benchmarks/README.md expects of it.
RATES = [
    ("1 CPU core, coca_ViT-B-32, fp32", 13.34 / 2, "measured", 0.04),
    ("1 CPU core, coca_ViT-B-32, int8", 24.8 / 2, "measured", 0.04),
    ("1 CPU core, coca_ViT-L-14, int8", 4.78 / 2, "measured", 0.04),
    ("1 H100, coca_ViT-L-14, fp16, batch 256", 310.0, "measured, earlier version", 2.8),
    ("1 H100, coca_ViT-L-14, fp16, batch 256", 1000.0, "assumed", 2.8),
]

# Requests per shard, measured: benchmarks/scaling.py requests. GET: the input, the configuration. PUT: claim, two parts, record.
REQUESTS_PER_SHARD = {"GET": 2, "PUT": 4}
# Listings of a run besides, each its pages: measured, the same. Empty folders are one page.
LISTINGS_PER_RUN, PUTS_PER_RUN = 10, 2
# stages/output/src/commits/workers/timing.rs: heartbeats in claim_seconds; workers that are listed once per heartbeat.
HEARTBEATS, PEERS_PER_HEARTBEAT = 4, 250

# pipeline/run/source: a worker that is done looks at the others' shards in groups of 900, at their records and at most once at their
# claims. stages/output/src/commits/workers: the pause between two heartbeats is 0.8 to 1 of the nominal one.
GROUP, LISTINGS_PER_GROUP, MEAN_PAUSE = 900, 2, 0.9

# Published. S3, us-east-1, Standard class.
PUT_DOLLARS, GET_DOLLARS = 0.005 / 1000, 0.0004 / 1000  # PUT, COPY, POST, LIST; GET, HEAD. DELETE is free
EGRESS_DOLLARS = 0.09  # per GB to the internet, first 10 TB a month; within the region free
STORAGE_DOLLARS = 0.023  # per GB and month, first 50 TB
LIMITS = [("S3, per partitioned prefix", 3500, 5500), ("Google Cloud Storage, a new bucket", 1000, 5000),
          ("Azure, per storage account", 20_000, 20_000)]
PAGE, PAGE_SECONDS = 1000, 0.1
LISTING_RANGES, LISTING_ROUNDS = 16, 5  # requests of one listing at a time, and rounds until all are in use; measured by tests of stages/store
# Measured: simulate_fleet --plan 1000000.
PLAN_BYTES_PER_SHARD = 798.0
# Measured: a commit record of the bundled base, and its line in the inventory.
RECORD_BYTES, INVENTORY_BYTES = 1450, 200
# Measured: benchmarks/scaling.py requests, short captions of the bundled base, with rejects and records.
OUTPUT_BYTES_PER_IMAGE = 154


def number(value: float, digits: int = 3) -> str:
    """A number with so many significant digits, thousands separated."""
    if value == 0:
        return "0"
    if value >= 10 ** (digits - 1):
        return f"{round(value):,}"
    return f"{value:.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def rates(plan: Plan) -> str:
    """What a million images cost in time and rent, by what computes."""
    rows = []
    for what, rate, source, dollars in RATES:
        hours = 1e6 / rate / 3600
        rows.append([what, number(rate), source, number(hours), f"{dollars:.2f}", number(hours * dollars)])
    header = ["one worker", "images/s", "source", "hours per million images", "$ per hour", "$ per million images"]
    return table(header, rows)


def fleet(plan: Plan) -> str:
    """The whole run, by the number of workers."""
    rows = []
    for workers in sorted({10, 100, plan.workers}):
        p = dataclasses.replace(plan, workers=workers)
        worker = p.images_per_second * p.bytes_per_image
        rows.append([f"{workers:,}", f"{p.hours:,.1f}", number(p.worker_hours), number(p.shards / workers), number(worker * 8 / 1e9),
                     number(worker * workers * 8 / 1e9), number(p.images_per_second * workers / p.images_per_shard)])
    return table(["workers", "hours", "worker hours", "shards per worker", "Gbit/s in, one worker", "Gbit/s in, all", "shards/s, all"], rows)


def shards(plan: Plan) -> str:
    """What the size of a shard changes."""
    rows = []
    for images in [1000, plan.images_per_shard, 100_000]:
        p = dataclasses.replace(plan, images_per_shard=images)
        # The last shards: half of one that began last, on average all of it at most.
        tail = p.shard_seconds / (p.hours * 3600)
        writes = p.shards / (p.hours * 3600) * REQUESTS_PER_SHARD["PUT"]
        pages = math.ceil(p.shards / PAGE)
        rows.append([f"{images:,}", f"{p.shards:,}", number(images * p.bytes_per_image / 1e6), number(p.shard_seconds), f"{tail:.1%}",
                     number(writes), number(pages * PAGE_SECONDS), number(min(pages, pages / LISTING_RANGES + LISTING_ROUNDS) * PAGE_SECONDS),
                     number(p.shards * PLAN_BYTES_PER_SHARD / 1e6), number(p.shards * INVENTORY_BYTES / 1e6)])
    return table(["images per shard", "shards", "MB per shard", "seconds per shard", "one shard / whole run", "PUT/s, all workers",
                  "listing the inputs page by page, s", f"in {LISTING_RANGES} ranges, s", "plan, MB per worker", "inventory, MB"], rows)


def requests(plan: Plan) -> dict[str, float]:
    """Requests of the whole run by kind."""
    seconds = plan.hours * 3600
    pages = math.ceil(plan.shards / PAGE) + LISTINGS_PER_RUN - 1  # of the inputs; the output is empty at the start
    stealing = math.ceil(plan.shards / GROUP) * LISTINGS_PER_GROUP  # once, when a worker's share is done
    return {
        "GET": plan.shards * REQUESTS_PER_SHARD["GET"],
        "PUT": plan.shards * REQUESTS_PER_SHARD["PUT"] + plan.workers * PUTS_PER_RUN + seconds * plan.heartbeats_per_second,
        "LIST": plan.workers * (pages + stealing) + seconds * plan.worker_listings_per_second,
    }


def limits(plan: Plan) -> str:
    """Mean request rates of all workers beside the published limits."""
    made, seconds = requests(plan), plan.hours * 3600
    writes, reads = made["PUT"] / seconds, (made["GET"] + made["LIST"]) / seconds
    rows = [[store, number(writes), f"{most_writes:,}", f"{writes / most_writes:.1%}", number(reads), f"{most_reads:,}", f"{reads / most_reads:.1%}"]
            for store, most_writes, most_reads in LIMITS]
    return table(["store", "writes/s", "limit", "share", "reads and lists/s", "limit", "share"], rows)


def heartbeats(plan: Plan) -> str:
    """What claim_seconds costs."""
    rows = []
    for seconds in sorted({plan.claim_seconds, 60.0, 240.0}):
        p = dataclasses.replace(plan, claim_seconds=seconds)
        puts, lists = p.heartbeats_per_second, p.worker_listings_per_second
        per_hour = (puts + lists) * 3600 * PUT_DOLLARS
        rows.append([f"{seconds:g}", number(puts), number(lists), f"{puts / LIMITS[0][1]:.1%}", f"{puts / LIMITS[1][1]:.1%}", f"{per_hour:.2f}"])
    return table(["run.claim_seconds", "PUT/s", "LIST/s", "of S3's writes", "of Google's writes", "$ per hour"], rows)


def dollars(plan: Plan) -> str:
    """What a million images cost, by item."""
    made, millions = requests(plan), plan.images / 1e6
    bytes_in, bytes_out = plan.images * plan.bytes_per_image, plan.images * OUTPUT_BYTES_PER_IMAGE
    items = [
        (f"workers, {number(plan.worker_hours)} hours at ${plan.gpu_dollars:.2f}", plan.worker_hours * plan.gpu_dollars),
        (f"PUT and LIST, {number((made['PUT'] + made['LIST']) / 1e6)} million", (made["PUT"] + made["LIST"]) * PUT_DOLLARS),
        (f"GET, {number(made['GET'] / 1e6)} million", made["GET"] * GET_DOLLARS),
        (f"output kept for a month, {number(bytes_out / 1e9)} GB", bytes_out / 1e9 * STORAGE_DOLLARS),
        (f"only if the workers are outside the cloud of the inputs: egress of {number(bytes_in / 1e12)} TB", bytes_in / 1e9 * EGRESS_DOLLARS),
    ]
    return table(["item", "$ for the whole run", "$ per million images"], [[what, number(total), number(total / millions)] for what, total in items])


TABLES = {"rates": rates, "fleet": fleet, "shards": shards, "limits": limits, "heartbeats": heartbeats, "dollars": dollars}


def marks(name: str) -> tuple[str, str]:
    return f"<!-- scaling_costs.py: {name} -->\n", "<!-- end -->\n"


def page_with_tables(page: str, plan: Plan) -> str:
    """The page with the tables of a plan between their marks."""
    for name, make in TABLES.items():
        begin, end = marks(name)
        if begin not in page:
            sys.exit(f"the page has no mark {begin.strip()}")
        before, rest = page.split(begin, 1)
        page = before + begin + "\n" + make(plan) + "\n" + end + rest.split(end, 1)[1]
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for field in dataclasses.fields(Plan):
        kind = int if isinstance(field.default, int) else float
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=field.default)
    parser.add_argument("--check", type=pathlib.Path, metavar="PAGE")
    parser.add_argument("--write", type=pathlib.Path, metavar="PAGE")
    args = vars(parser.parse_args())
    check, write = args.pop("check"), args.pop("write")
    plan = Plan(**args)
    if any(value <= 0 for value in args.values()):
        sys.exit("every parameter is greater than 0")
    if check or write:
        path = check or write
        page = path.read_text()
        expected = page_with_tables(page, plan)
        if write:
            path.write_text(expected)
        elif page != expected:
            sys.exit(f"{path} has other tables than scripts/scaling_costs.py: run it with --write {path}")
        return
    for name, make in TABLES.items():
        print(f"{name}: {make.__doc__}\n\n{make(plan)}")


if __name__ == "__main__":
    main()
