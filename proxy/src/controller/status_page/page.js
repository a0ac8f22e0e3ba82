// Shows what /events tells. All of it is put in as text: containers choose names, and the page is not theirs.
"use strict";

const find = (id) => document.getElementById(id);

/** An element with this text or these children. */
function element(name, content, kind) {
  const made = document.createElement(name);
  if (Array.isArray(content)) made.append(...content);
  else if (content !== null && content !== undefined) made.textContent = content;
  if (kind) made.className = kind;
  return made;
}

/** What is as it was stays, and with it what somebody has selected there. */
function fill(id, children) {
  const root = find(id);
  for (const [index, child] of children.entries()) {
    const there = root.children[index];
    if (!there) root.append(child);
    else if (!there.isEqualNode(child)) there.replaceWith(child);
  }
  while (root.children.length > children.length) root.lastElementChild.remove();
}

function row(cells) {
  return element("tr", cells.map((cell) => (cell instanceof Node ? element("td", [cell]) : element("td", cell))));
}

const GOOD = ["up", "valid", "active", "done"];
const BAD = ["unhealthy", "expired", "failed", "gone", "no_address"];
function state(word, more) {
  const kind = GOOD.includes(word) ? "good" : BAD.includes(word) ? "bad" : "wait";
  return element("span", more ? `${word}: ${more}` : word, kind);
}

/** How long until then, or since then, in one unit. */
function span(time, now) {
  const seconds = Math.abs(Date.parse(time) - now) / 1000;
  for (const [length, unit] of [[86400, "d"], [3600, "h"], [60, "min"]]) {
    if (seconds >= 2 * length) return `${Math.floor(seconds / length)} ${unit}`;
  }
  return `${Math.round(seconds)} s`;
}

// One point for each state that came, oldest first.
const POINTS = 60;
const series = { requests: [], errors: [], median: [], slow: [] };
let before = null;

/** The bound below which this share of what was counted lies, in milliseconds. */
function quantile(share, bounds, counts) {
  const all = counts.reduce((sum, count) => sum + count, 0);
  if (all === 0) return null;
  let seen = 0;
  for (let index = 0; index < counts.length; index += 1) {
    seen += counts[index];
    if (seen >= share * all) return (bounds[index] ?? bounds[bounds.length - 1]) / 1000;
  }
  return null;
}

function measure(told) {
  const { totals } = told;
  if (before && told.now_ms > before.now_ms) {
    const seconds = (told.now_ms - before.now_ms) / 1000;
    const grown = (now, then) => Math.max(0, now - then);
    const counts = totals.buckets.map((count, index) => grown(count, before.totals.buckets[index] ?? 0));
    push("requests", grown(totals.requests, before.totals.requests) / seconds);
    push("errors", grown(totals.errors, before.totals.errors) / seconds);
    push("median", quantile(0.5, totals.bounds_us, counts) ?? 0);
    push("slow", quantile(0.99, totals.bounds_us, counts) ?? 0);
  }
  before = told;
}

function push(name, value) {
  series[name].push(value);
  series[name].splice(0, series[name].length - POINTS);
}

function graph(values, label) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("viewBox", "0 0 100 20");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `${label}, the last ${values.length} readings`);
  const line = document.createElementNS(space, "polyline");
  const top = Math.max(...values, 1e-9);
  const x = (index) => (100 * (index + POINTS - values.length)) / (POINTS - 1);
  line.setAttribute("points", values.map((value, index) => `${x(index)},${19 - (18 * value) / top}`).join(" "));
  svg.append(line);
  return svg;
}

function tile(label, value, values) {
  const parts = [element("b", value), element("span", label)];
  if (values && values.length > 1) parts.push(graph(values, label));
  return element("li", parts);
}

const last = (name) => series[name][series[name].length - 1];
function number(value, unit = "") {
  if (value === undefined) return "–";
  return `${value >= 100 ? Math.round(value) : Math.round(value * 10) / 10}${unit}`;
}

function showTiles(told) {
  const up = told.routes.routes.filter((route) => route.upstreams.some((upstream) => upstream.state === "up"));
  fill("tiles", [
    tile("requests a second", number(last("requests")), series.requests),
    tile("5xx answers a second", number(last("errors")), series.errors),
    tile("half were within", number(last("median"), " ms"), series.median),
    tile("99 in 100 were within", number(last("slow"), " ms"), series.slow),
    tile("connections", told.load.connections),
    tile("requests that wait", told.load.requests_held),
    tile("routes are up", `${up.length} of ${told.routes.routes.length}`),
  ]);
}

function showTroubles(told) {
  const troubles = [];
  const { docker } = told.status;
  if (docker.error) troubles.push(`Docker: ${docker.error}`);
  for (const one of told.routes.diagnoses) troubles.push(`${one.container}: ${one.setting} ${one.problem}`);
  for (const one of told.certificates) if (one.last_error) troubles.push(`${one.names.join(", ") || one.kind}: ${one.last_error}`);
  for (const one of told.status.generations) if (one.last_death) troubles.push(`generation ${one.id}: ${one.last_death}`);
  fill("troubles", troubles.map((text) => element("li", text)));
}

function showRoutes(told) {
  const wanted = find("filter").value.trim().toLowerCase();
  const rows = [];
  for (const route of told.routes.routes) {
    const upstreams = route.upstreams.length ? route.upstreams : [null];
    for (const upstream of upstreams) {
      const who = upstream?.container ?? "";
      if (!`${route.host} ${who}`.toLowerCase().includes(wanted)) continue;
      const where = upstream?.address ? `${upstream.protocol}://${upstream.address}` : "";
      const how = route.intervention ? state(route.intervention) : upstream ? state(upstream.state) : state("gone");
      rows.push(row([route.host, route.path, who, where, how, route.certificate, route.options.join(", ")]));
    }
  }
  fill("routes", rows);
  fill("unrouted", told.routes.unrouted.map((one) => row([one.container, one.reason])));
}

function showCertificates(told) {
  const next = (one) => {
    if (one.next_try) return `another try in ${span(one.next_try, told.now_ms)}`;
    if (one.next_renewal) return `renewal in ${span(one.next_renewal, told.now_ms)}`;
    return "";
  };
  fill("certificates", told.certificates.map((one) => row([
    one.names.join(", "), one.kind, state(one.state), one.not_after && span(one.not_after, told.now_ms), next(one),
  ])));
}

function showGenerations(told) {
  find("handoff-mode").textContent = `Handoffs are in ${told.status.handoff.mode} mode: ${told.status.handoff.why}`;
  fill("generations", told.status.generations.map((one) => row([
    one.id, state(one.state), one.pid, `${span(one.started, told.now_ms)} ago`, one.connections, one.snapshot, one.deaths,
    one.sandbox_missing.length ? state("incomplete", one.sandbox_missing.join("; ")) : one.sandbox.join(", "),
  ])));
}

/** By number. The elements stay from one showing to the next, so that what somebody has opened stays open, and a
 *  click or the focus is not lost to a step that comes in that moment. */
const handoffs = new Map();
function handoff(one) {
  const known = handoffs.get(one.id) ?? { node: element("details", [element("summary"), element("ol")]) };
  handoffs.set(one.id, known);
  const text = JSON.stringify(one);
  if (known.text === text) return known.node;
  known.text = text;
  const [summary, steps] = known.node.children;
  summary.replaceChildren(`${one.id}: ${one.kind}, generation ${one.from} to ${one.to}, `, state(one.outcome, one.error));
  steps.replaceChildren(...one.steps.map((step) => element("li", [element("b", `${step.ms} ms`), step.text])));
  return known.node;
}

function showHandoffs(told) {
  const shown = told.status.last_handoffs.map(handoff);
  const root = find("handoffs");
  const same = shown.length === root.children.length && shown.every((node, index) => node === root.children[index]);
  if (!same) root.replaceChildren(...(shown.length ? shown : [element("p", "None yet.")]));
}

function show(told) {
  find("version").textContent = `${told.status.version}, process ${told.status.pid}, for ${span(told.status.started, told.now_ms)}`;
  showTiles(told);
  showTroubles(told);
  showRoutes(told);
  showCertificates(told);
  showGenerations(told);
  showHandoffs(told);
  document.querySelector("main").hidden = false;
}

function link(text, kind) {
  const shown = find("link");
  if (shown.textContent !== text) shown.textContent = text;
  shown.className = kind;
}

find("filter").addEventListener("input", () => before && showRoutes(before));
const events = new EventSource("/events");
events.addEventListener("state", (event) => {
  link("live", "good");
  const told = JSON.parse(event.data);
  measure(told);
  show(told);
});
// The browser tries again by itself.
events.addEventListener("error", () => link("not connected; trying again", "bad"));
