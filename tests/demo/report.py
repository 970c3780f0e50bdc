"""What a person wants to see of a run: a line per round, a table, and a picture. Pure: facts in, text out."""
import math
from html import escape

MS = 1_000_000  # nanoseconds

# picture
WIDTH, HEIGHT = 1040, 560
LEFT, RIGHT, TOP = 74, 24, 74
LATENCY_H, PAUSE_H, GAP = 300, 90, 34
LABEL_W = 130
POINTS_MAX = 4000
LATENCY_MIN_MS = 0.1
BLUE, GREEN, RED, ORANGE, GREY, INK = "#2166ac", "#1b7837", "#b2182b", "#e08214", "#d9d9d9", "#222222"


def quantile(values, q):
    """The smallest value that a share q of the values does not exceed; None without values."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[max(0, math.ceil(q * len(ordered)) - 1)]


def ms(value_ns, digits=1):
    if value_ns is None:
        return "–"
    return f"{value_ns / MS:.{digits}f} ms" if value_ns < 2000 * MS else f"{value_ns / MS / 1000:.2f} s"


def size(n):
    if n is None:
        return "–"
    for unit in ("B", "kB", "MB"):
        if n < 1000:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:.2f} GB"


def known(rounds, key):
    return [r[key] for r in rounds if r.get(key) is not None]


def total(rounds, key):
    return sum(known(rounds, key))


def spread(rounds, key):
    """p50 and maximum over the rounds, for one line."""
    values = known(rounds, key)
    if not values:
        return "–"
    return f"p50 {ms(quantile(values, 0.5))}, max {ms(max(values))}"


def round_line(r, count):
    flight = "INCR under way" if r["in_flight"] else "no INCR under way"
    came = (f"noticed after {ms(r['detect_ns'], 0)}, taken over in {ms(r['takeover_ns'])}" if r["outcome"] == "takeover"
            else r["outcome"] or "no outcome")
    return (f"round {r['round']}/{count} {r['state']}: {r['kind']} in {r['step'] or 'unknown step'}, {flight}; {came}; client waited "
            f"{ms(r['outage_ns'], 0)}; {r['replies_before']} replies before, {r['replies_after']} after; lost {r['lost']}")


def histogram(rounds):
    counts = {}
    for r in rounds:
        step = r["step"] or "unknown"
        counts[step] = counts.get(step, 0) + 1
    return counts


def table(run):
    """[(what, figure)] over all rounds."""
    rounds = run["rounds"]
    pauses = [p for r in rounds for p in r["pauses_ns"]]
    checkpoints = total(rounds, "checkpoints")
    pages = total(rounds, "dirty_pages")
    steps = ", ".join(f"{step} {n}×" for step, n in sorted(histogram(rounds).items()))
    in_flight = sum(r["in_flight"] for r in rounds)
    return [
        ("machine", f"{run['accel']} ({run['accel_why']}), {run['qemu']}, guest kernel {run['kernel']}"),
        ("guest booted in", spread(rounds, "boot_ns")),
        ("protected after", f"{spread(rounds, 'protect_ns')} (first copy of its memory)"),
        ("checkpoints", f"{checkpoints}, one each {run['interval_ms']} ms wanted"),
        ("pause", f"p50 {ms(quantile(pauses, 0.5))}, p99 {ms(quantile(pauses, 0.99))}, max {ms(max(pauses, default=None))}"),
        ("dirty pages", f"{pages / checkpoints:.0f} a checkpoint" if checkpoints else "–"),
        ("bytes", f"{size(total(rounds, 'raw_bytes'))} of stream, {size(total(rounds, 'wire_bytes'))} on the wire"),
        ("kill noticed", f"{spread(rounds, 'detect_ns')} (kill to claim granted)"),
        ("taken over", f"{spread(rounds, 'takeover_ns')} (claim granted to guest running)"),
        ("client waited", spread(rounds, "outage_ns")),
        ("replies", f"{total(rounds, 'replies_before')} before, {total(rounds, 'replies_after')} after the kill"),
        ("killed during", f"{steps}; an INCR under way in {in_flight} of {len(rounds)} rounds"),
    ]


def table_text(run):
    return "\n".join(f"{what:>16}  {figure}" for what, figure in table(run))


def last_line(lost):
    return f"acknowledged writes lost: {lost}"


# ---- the picture


class Scale:
    """Time to x, latency (logarithmic) and pause (linear) to y, all in the picture's units."""

    def __init__(self, t0, t1, latency_max_ms, pause_max_ms):
        self.t0, self.t1 = t0, max(t1, t0 + 1)
        self.top_decade = max(1, math.ceil(math.log10(max(latency_max_ms, 1))))
        self.bottom_decade = math.log10(LATENCY_MIN_MS)
        self.pause_max = max(pause_max_ms, 1.0)

    def x(self, t):
        return LEFT + (t - self.t0) / (self.t1 - self.t0) * (WIDTH - LEFT - RIGHT)

    def y_latency(self, value_ms):
        share = (math.log10(max(value_ms, LATENCY_MIN_MS)) - self.bottom_decade) / (self.top_decade - self.bottom_decade)
        return TOP + LATENCY_H * (1 - share)

    def y_pause(self, value_ms):
        return TOP + LATENCY_H + GAP + PAUSE_H * (1 - min(value_ms / self.pause_max, 1))


def text(x, y, content, anchor="start", fill=INK, extra=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}" {extra}>{escape(content)}</text>'


def line(x1, y1, x2, y2, stroke, extra=""):
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{stroke}" {extra}/>'


def axes(s, zero):
    parts = []
    for decade in range(round(s.bottom_decade), s.top_decade + 1):
        y = s.y_latency(10.0 ** decade)
        label = f"{10 ** decade:g} ms" if decade < 3 else f"{10 ** (decade - 3):g} s"
        parts += [line(LEFT, y, WIDTH - RIGHT, y, GREY), text(LEFT - 6, y + 4, label, "end")]
    for share in (0, 1):
        y = s.y_pause(s.pause_max * share)
        parts += [line(LEFT, y, WIDTH - RIGHT, y, GREY), text(LEFT - 6, y + 4, f"{s.pause_max * share:.0f} ms", "end")]
    seconds = (s.t1 - s.t0) / 1e9
    step = next((c for c in (0.5, 1, 2, 5, 10, 20, 60) if seconds / c <= 16), 120)
    base = TOP + LATENCY_H + GAP + PAUSE_H
    for k in range(math.ceil((s.t0 - zero) / 1e9 / step), math.floor((s.t1 - zero) / 1e9 / step) + 1):
        x = s.x(zero + k * step * 1e9)
        parts += [line(x, base, x, base + 5, INK), text(x, base + 19, f"{k * step:g} s", "middle")]
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, base + 38, "time, from the kill on", "middle"))
    parts.append(text(LEFT, TOP - 8, "how long a request took (each point is one)"))
    parts.append(text(LEFT, TOP + LATENCY_H + GAP - 8, "how long the guest was paused for a checkpoint"))
    return parts


def thin(points):
    """At most POINTS_MAX, but never without the slow ones."""
    if len(points) <= POINTS_MAX:
        return points
    slow = sorted(points, key=lambda p: -p[1])[:POINTS_MAX // 10]
    every = math.ceil(len(points) / (POINTS_MAX - len(slow)))
    return sorted(set(points[::every]) | set(slow))


def picture(r):
    """SVG of one round: r has latencies [(t, ns)], pauses [(t, ns)], kill, takeover (or None), protected, title, note."""
    kill, takeover = r["kill"], r["takeover"]
    latencies, pauses = r["latencies"], r["pauses"]
    times = [t for t, _ in latencies + pauses] + [kill] + ([takeover] if takeover else [])
    s = Scale(min(times), max(times), max((v / MS for _, v in latencies), default=1),
              max((v / MS for _, v in pauses), default=1))
    base = TOP + LATENCY_H + GAP + PAUSE_H
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
           f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>', text(LEFT, 24, r["title"], extra='font-size="17"'),
           text(LEFT, 44, r["note"], fill="#555555")]
    if takeover:
        x = s.x(kill)
        out.append(f'<rect x="{x:.1f}" y="{TOP}" width="{s.x(takeover) - x:.1f}" height="{base - TOP}" fill="#fddbc7" opacity="0.6"/>')
    out += axes(s, kill)
    for t, value in thin(pauses):
        out.append(line(s.x(t), s.y_pause(value / MS), s.x(t), s.y_pause(0), ORANGE))
    for t, value in thin(latencies):
        out.append(f'<circle cx="{s.x(t):.1f}" cy="{s.y_latency(value / MS):.1f}" r="1.8" fill="{BLUE}"/>')
    if latencies:
        t, value = max(latencies, key=lambda p: p[1])
        out.append(f'<circle cx="{s.x(t):.1f}" cy="{s.y_latency(value / MS):.1f}" r="4" fill="none" stroke="{RED}"/>')
        out.append(text(s.x(t) - 8, s.y_latency(value / MS) + 4, f"longest: {ms(value, 0)}", "end", RED))
    marks = [(r.get("protected"), GREEN, "protected", "start"), (kill, RED, "alpha killed (SIGKILL)", "end"),
             (takeover, GREEN, "beta runs the guest", "start")]
    for t, colour, label, anchor in marks:
        if t is not None and s.t0 <= t <= s.t1:
            x = s.x(t)
            out.append(line(x, TOP, x, base, colour, 'stroke-width="1.5"'))
            if anchor == "start" and x > WIDTH - RIGHT - LABEL_W:
                anchor = "end"
            y = TOP + 14 + (16 if anchor == "end" and t != kill else 0)  # apart from the kill's, which stands left too
            out.append(text(x + (5 if anchor == "start" else -5), y, label, anchor, colour))
    out.append("</svg>\n")
    return "\n".join(out)
