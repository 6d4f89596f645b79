// The whole service, one snapshot a second.

import {
  accountLink, byId, cell, clock, count, drawn, fill, linkIs, listen, make, milliseconds,
  moment, moved, notice, put, rate, reference, share, tag,
} from "/web/shared.js";

const WIDTH = 600;
const HEIGHT = 120;
const CODES_SHOWN = 12;
const LONGEST_MS = 10000;
const WORDS = { redis: "Redis", postgres: "PostgreSQL", closed: "nobody: closed", unknown: "not known" };
let known = null;

function chart(seconds) {
  const svg = byId("seconds");
  const peak = Math.max(1, ...seconds.map((each) => each.entries ?? 0));
  const step = WIDTH / Math.max(60, seconds.length);
  const first = WIDTH - seconds.length * step;
  svg.replaceChildren(...seconds.map((each, place) => {
    const height = each.entries === null ? HEIGHT : (each.entries / peak) * (HEIGHT - 4);
    return drawn("rect", {
      class: each.entries === null ? "bar unknown" : "bar",
      x: (first + place * step + 1).toFixed(1),
      y: (HEIGHT - height).toFixed(1),
      width: (step - 2).toFixed(1),
      height: height.toFixed(1),
    });
  }));
  put("peak", seconds.length ? `highest ${count(peak === 1 && !seconds.some((each) => each.entries) ? 0 : peak)}` : "");
}

function bar(part) {
  const svg = drawn("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" });
  svg.append(drawn("rect", { class: "bar", width: (part * 100).toFixed(2), height: 10, rx: 2 }));
  return svg;
}

function showInstance(instance) {
  const mode = put("mode", WORDS[instance.mode] ?? instance.mode);
  mode.className = `big word ${instance.mode === "redis" ? "" : "warn"}`;
  mode.dataset.mode = instance.mode;
  put("epoch", instance.epoch || null);
  const status = put("status", instance.status);
  status.className = { healthy: "good", degraded: "warn" }[instance.status] ?? "bad";
  put("lag", milliseconds(instance.settler_lag_ms));
  fill("parts", instance.parts, (part) => {
    const state = make("td", {}, make("strong", { class: part.ok ? "good" : "bad" }, part.ok ? "well" : "unwell"));
    state.append(` ${part.detail}`);
    const took = part.latency_ms > 0 ? milliseconds(part.latency_ms) : "";
    return [cell(part.name.replace("_", " "), "time"), state, cell(took, "number")];
  });
  put("queue", count(instance.queue_depth));
  showVerified(instance.verified);
  const unwell = instance.parts.filter((part) => !part.ok);
  const said = unwell.map((part) => `${part.name.replace("_", " ")}: ${part.detail.replace(/\.$/, "")}`).join("; ");
  if (!instance.ready) {
    notice(`No transaction is decided now. ${said}`, "bad");
  } else if (unwell.length || instance.mode !== "redis") {
    const who = instance.mode === "redis" ? "" : `Decided by ${WORDS[instance.mode] ?? instance.mode}. `;
    notice(`${who}${said}`);
  } else {
    notice("");
  }
}

function showVerified(check) {
  const element = put("verified", check === null ? null : check.ok ? "verified" : "mismatch");
  element.className = `big word ${check === null ? "" : check.ok ? "good" : "bad"}`;
  put("verified-more", check === null
    ? "no check has ended yet"
    : `${count(check.mismatch_count)} mismatches at ${clock(check.verified_at)}${check.complete ? "" : "; not all was compared"}`);
}

function estimated(took, name) {
  if (took?.count && took[name] === null) return `> ${milliseconds(LONGEST_MS)}`;
  return took?.count ? `≈ ${milliseconds(took[name])}` : null;
}

function showProcess(mine) {
  const took = mine?.latency_ms;
  for (const name of ["p50", "p95", "p99"]) put(name, estimated(took, name));
  put("success", share(mine?.success_rate));
  put("accepted-rate", rate(mine?.accepted_per_s));
  put("refused-rate", rate(mine?.refused_per_s));
  put("refused-sub", mine
    ? `Transactions refused in the last hour: ${count(mine.refused_last_1h)}. By code since ${moment(mine.started_at)}:`
    : null);
  fill("refused", refusals(mine), ([code, transactions, requests]) => [
    cell(code), cell(transactions ? count(transactions) : "", "number"), cell(requests ? count(requests) : "", "number"),
  ]);
  put("window", mine ? `over its last ${Math.max(1, Math.round(mine.window_s))} s` : "which counts nothing: SUBBALANCE_METRICS is false");
}

// A bulk request that is answered well may have refused transactions in it, and a request may be
// refused before it is one: neither count is part of the other.
function refusals(mine) {
  if (!mine) return null;
  const { refused, problems } = mine;
  const codes = new Set([...Object.keys(refused), ...Object.keys(problems)]);
  return [...codes].map((code) => [code, refused[code] ?? 0, problems[code] ?? 0])
    .sort((one, other) => Math.max(other[1], other[2]) - Math.max(one[1], one[2])).slice(0, CODES_SHOWN);
}

function showLedger(ledger) {
  put("tps", count(ledger?.tps));
  chart(ledger?.seconds ?? []);
  put("pending", ledger ? count(ledger.pending_count) + (ledger.pending_is_more ? " and more" : "") : null);
  put("settled", count(ledger?.settled_today));
  put("hot-sub", ledger ? `Of the latest ${count(ledger.sampled_entries)} entries, at most ten seconds old.` : null);
  fill("hot", ledger?.hot_accounts ?? null, (each) => [
    cell(accountLink(each.account_id)), cell(share(each.share), "number"), cell(bar(each.share), "share"),
  ]);
  fill("recent", ledger?.recent ?? null, (each) => {
    const sum = cell(moved(each), "number");
    sum.append(` ${each.currency}`);
    const state = cell(each.status, "state");
    if (each.mode !== "redis") state.append(" ", tag(each.mode));
    return [cell(clock(each.timestamp), "time"), cell(accountLink(each.account_id), "account"), sum, state, reference(each)];
  });
  fill("epochs", ledger?.epochs ?? null, (each) => [
    cell(String(each.epoch)), cell(tag(each.mode)), cell(moment(each.opened_at), "time"), cell(each.reason),
  ]);
}

function show(snapshot) {
  known = snapshot;
  linkIs("live", "live");
  showInstance(snapshot.instance);
  showProcess(snapshot.process);
  showLedger(snapshot.ledger);
  put("at", `figures of ${clock(snapshot.at)}`);
}

function lost(said) {
  const since = known ? ` The figures are of ${clock(known.at)}.` : "";
  linkIs("lost", "connection lost, trying again");
  notice(`${said || "The service does not answer."}${since}`, "bad");
}

listen(show, lost);
