"""A script of mitmproxy that stands before a store and makes mistakes, by a schedule that a seed decides.

    FAULTS_JOURNAL   file that gets one JSON line for each request and for each mistake
    FAULTS_SEED      of the schedule; 1 if it is not set
    FAULTS_RATE      share of the requests that meet a mistake; 0 if it is not set
    FAULTS_STALL     seconds of a stall; 30 if it is not set
    FAULTS_STALLS    most stalls; no limit if it is not set
    FAULTS_KINDS     kinds to choose from, separated by commas; all if it is not set
    FAULTS_ONLY      regular expression over "METHOD /path?query": other requests meet no mistake by chance
    FAULTS_AT        lines of a kind and a regular expression over "METHOD /path?query": the first answer of each that says
                     success meets that mistake, whatever the rate; only kinds that need the server's answer

The mistakes: `500`, `503` (in bursts, with S3's SlowDown) and `429` come instead of the server's answer, and the server
hears nothing. `refused` breaks the connection before the server hears, `upload_cut` while a body is being sent. `stall` is
silence before the answer. `lost_answer` breaks the connection after the server has done what it was asked. `reset` and `cut`
break an answer in the middle of its body, by RST and by FIN; after `silent` nothing more comes and nothing breaks; `too_long`
and `too_short` announce another length than the body has.
"""
import asyncio, json, os, random, re, socket, struct

from mitmproxy import ctx, http

WITHOUT_SERVER = ["500", "503", "429", "refused"]
ANY_ANSWER = ["stall", "lost_answer"]
WITH_BODY = ["reset", "cut", "silent", "too_long", "too_short"]
UPLOADS = ["upload_cut"]
# How many requests in a row meet the 503.
BURST = (2, 3)
# Long enough for half a body to arrive before the connection breaks.
HALF_SECONDS = 0.05


class Faults:
    def __init__(self) -> None:
        env = os.environ
        self.dice = random.Random(int(env.get("FAULTS_SEED", "1")))
        self.rate = float(env.get("FAULTS_RATE", "0"))
        self.stall = float(env.get("FAULTS_STALL", "30"))
        self.stalls = int(env.get("FAULTS_STALLS", "1000000"))
        self.kinds = set(filter(None, env.get("FAULTS_KINDS", "").split(","))) or {*WITHOUT_SERVER, *ANY_ANSWER, *WITH_BODY, *UPLOADS}
        self.only = re.compile(env.get("FAULTS_ONLY", ""))
        rules = (line.split(" ", 1) for line in env.get("FAULTS_AT", "").splitlines() if line)
        self.rules = [(kind, re.compile(where)) for kind, where in rules]
        self.burst = 0
        self.journal = open(env["FAULTS_JOURNAL"], "a", buffering=1)

    def write(self, flow: http.HTTPFlow, **more) -> None:
        self.journal.write(json.dumps({"method": flow.request.method, "path": flow.request.path, **more}) + "\n")

    def choose(self, flow: http.HTTPFlow) -> str | None:
        if self.burst:
            self.burst -= 1
            return "503"
        if self.dice.random() >= self.rate or not self.only.search(asked(flow)):
            return None
        known = WITHOUT_SERVER + ANY_ANSWER + {"GET": WITH_BODY, "PUT": UPLOADS}.get(flow.request.method, [])
        known = [kind for kind in known if kind in self.kinds and (kind not in ("stall", "silent") or self.stalls)]
        kind = self.dice.choice(known) if known else None
        if kind == "503":
            self.burst = self.dice.randint(*BURST) - 1
        if kind in ("stall", "silent"):
            self.stalls -= 1
        return kind

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        kind = self.choose(flow)
        precondition = flow.request.headers.get("if-none-match")
        self.write(flow, request=True, if_none_match=precondition)
        flow.metadata["fault"] = kind
        if kind in UPLOADS:
            self.write(flow, fault=kind)
            flow.kill()

    def request(self, flow: http.HTTPFlow) -> None:
        kind = flow.metadata.get("fault")
        if kind in ("500", "503", "429"):
            code = {"500": "InternalError", "503": "SlowDown", "429": "TooManyRequests"}[kind]
            body = f"<Error><Code>{code}</Code><Message>a mistake on purpose</Message></Error>"
            flow.response = http.Response.make(int(kind), body, {"Content-Type": "application/xml"})
        elif kind == "refused":
            flow.kill()
        if kind in WITHOUT_SERVER:
            self.write(flow, fault=kind)
            flow.metadata["fault"] = None

    async def response(self, flow: http.HTTPFlow) -> None:
        kind, answer = flow.metadata.get("fault"), flow.response
        for rule in self.rules:
            if rule[1].search(asked(flow)) and answer.status_code < 300:
                self.rules.remove(rule)
                kind = rule[0]
                break
        body = answer.raw_content or b""
        if kind in WITH_BODY and len(body) < 2:
            return
        if kind:
            self.write(flow, fault=kind, status=answer.status_code)
        if kind == "stall":
            await asyncio.sleep(self.stall)
        elif kind == "lost_answer":
            flow.kill()
        elif kind in ("reset", "cut", "silent"):
            answer.headers["content-length"] = str(len(body))
            answer.raw_content = body[: len(body) // 2]
            if kind == "cut":
                answer.headers["connection"] = "close"
            elif kind == "reset":
                asyncio.get_running_loop().call_later(HALF_SECONDS, reset, flow)
        elif kind in ("too_long", "too_short"):
            wrong = len(body) + 1000 if kind == "too_long" else len(body) // 2
            answer.headers["content-length"] = str(wrong)
            answer.headers["connection"] = "close"


def asked(flow: http.HTTPFlow) -> str:
    return f"{flow.request.method} {flow.request.path}"


def reset(flow: http.HTTPFlow) -> None:
    """Ends the client's connection with RST, as a machine that dies does."""
    for handler in ctx.master.addons.get("proxyserver").connections.values():
        if handler.client is flow.client_conn and handler.client in handler.transports:
            transport = handler.transports[handler.client].writer.transport
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()


addons = [Faults()]
