// One account, as the API answers; asked again while the page is looked at.

import {
  Refused, accountLink, amount, anotherKey, ask, byId, cell, clock, count, drawn, fill, linkIs, make,
  moment, moved, notice, put, reference, request, tag, theirs,
} from "/web/shared.js";

const AGAIN_MS = 2000;
const REST_MS = 10000;
const LATEST = 15;
const ROWS = 50;
const WIDTH = 600;
const id = decodeURIComponent(location.pathname.slice("/accounts/".length));
const path = encodeURIComponent(id);

// Parts of the available balance beside one another; widths only, the figures stand beside them.
function split(balance) {
  const parts = [
    ["settled", balance.settled_balance], ["credit", balance.pending_credit],
    ["limit", balance.credit_limit], ["debit", balance.pending_debit],
  ].map(([kind, text]) => [kind, Math.max(0, Number(text))]);
  const whole = parts.reduce((sum, [, size]) => sum + size, 0);
  let x = 0;
  byId("split").replaceChildren(...parts.filter(([, size]) => whole > 0 && size > 0).map(([kind, size]) => {
    const width = (size / whole) * WIDTH;
    const rect = drawn("rect", { class: `part-${kind}`, x: x.toFixed(2), y: 0, width: width.toFixed(2), height: 26 });
    x += width;
    return rect;
  }));
}

function showBalance(balance) {
  put("available", amount(balance.available_balance));
  put("settled", amount(balance.settled_balance));
  put("credit", amount(balance.pending_credit));
  put("debit", amount(balance.pending_debit));
  put("limit", amount(balance.credit_limit));
  put("held", amount(balance.held));
  put("version", count(balance.version));
  put("changed", moment(balance.last_updated));
  for (const each of document.querySelectorAll("[data-currency]")) each.textContent = balance.currency;
  split(balance);
}

function showPending(pending) {
  put("pending-sub", `${count(pending.count)} entries: +${amount(pending.total_credit)} and −${amount(pending.total_debit)} ${pending.currency}.`);
  fill("pending", pending.items, (each) => [
    cell(clock(each.timestamp), "time"), cell(moved(each), "number"), cell(tag(each.mode)),
  ]);
}

function showHolds(answer) {
  fill("holds", answer.holds, (each) => [
    cell(moment(each.timestamp), "time"), cell(amount(each.remaining), "number"),
    cell(amount(each.amount), "number"), cell(each.expires_at ? moment(each.expires_at) : "never"),
  ]);
}

function showLatest(answer) {
  fill("latest", answer.transactions, (each) => {
    const state = cell(each.status, "state");
    if (each.mode !== "redis") state.append(" ", tag(each.mode));
    const other = each.other_account_id ? accountLink(each.other_account_id) : "";
    return [cell(moment(each.timestamp), "time"), cell(moved(each), "number"), state, cell(other, "other"), reference(each)];
  });
}

function showDetails(account) {
  const flags = byId("flags");
  flags.replaceChildren();
  if (account.closed) flags.append(make("span", { class: "tag bad" }, "closed"));
  if (account.frozen !== "none") flags.append(make("span", { class: "tag warn" }, `frozen: ${account.frozen}`));
  const pairs = [["Currency", account.currency], ["Opened", moment(account.created_at)], ...Object.entries(account.metadata ?? {})];
  byId("details").replaceChildren(...pairs.flatMap(([name, value]) => [
    make("dt", {}, theirs(name)), make("dd", {}, theirs(String(value))),
  ]));
}

let known = "";
let restAt = 0;

// The rest is asked for when the balance changed, and now and then: most of the time nothing did.
async function refreshAll() {
  const balance = await ask(`/api/v1/balance/${path}`);
  showBalance(balance);
  const now = JSON.stringify(balance);
  if (now !== known || performance.now() - restAt >= REST_MS) {
    const [pending, holds, latest, account] = await Promise.all([
      ask(`/api/v1/pending/${path}?limit=${LATEST}`),
      ask(`/api/v1/holds?account_id=${path}&status=HELD&limit=${LATEST}`),
      ask(`/api/v1/transactions?account_id=${path}&limit=${LATEST}`),
      ask(`/api/v1/accounts/${path}`),
    ]);
    showPending(pending);
    showHolds(holds);
    showLatest(latest);
    showDetails(account);
    known = now;
    restAt = performance.now();
  }
  linkIs("live", "live");
  notice("");
  put("at", `read at ${clock(new Date().toISOString())}`);
}

// Refreshes once; returns how long to wait at least before the next time.
async function refresh() {
  try {
    await refreshAll();
  } catch (error) {
    if (error instanceof Refused && error.wantsKey) {
      await anotherKey(error);
      return 0;
    }
    if (error instanceof Refused) {
      linkIs("live", "live");
      notice(error.message, "bad");
      return Math.max(AGAIN_MS, error.waitMs);
    }
    linkIs("lost", "connection lost, trying again");
    notice("The service does not answer; the figures are not of now.", "bad");
  }
  return AGAIN_MS;
}

let statement = null;

function periodAddress(form) {
  const wanted = new URLSearchParams(form);
  for (const name of ["from", "to"]) {
    const value = byId(name).value;
    if (value) wanted.set(name, new Date(value).toISOString());
  }
  return `/api/v1/accounts/${path}/statement?${wanted}`;
}

async function showStatement(rows, address) {
  byId("csv").setAttribute("href", periodAddress({ format: "csv" }));
  try {
    const page = await ask(address);
    statement = [...rows, ...page.rows];
    put("statement-sub", `${count(statement.length)} rows. Before this page ${amount(page.opening_balance)}, after it ${amount(page.closing_balance)} ${page.currency}.`);
    fill("statement", statement, (each) => [
      cell(moment(each.booked_at), "time"), cell(moved(each), "number"), cell(amount(each.balance), "number after"),
      cell(each.status, "state"), reference(each),
    ]);
    const next = byId("next");
    next.hidden = !page.next_cursor;
    next.onclick = () => showStatement(statement, periodAddress({ limit: ROWS, cursor: page.next_cursor }));
  } catch (error) {
    put("statement-sub", error instanceof Refused ? error.message : "The service does not answer.");
  }
}

// A link cannot send a key, so the file is fetched.
async function saveStatement(event) {
  event.preventDefault();
  try {
    const answer = await request(byId("csv").href);
    const file = URL.createObjectURL(await answer.blob());
    const link = make("a", { href: file });
    link.download = `statement-${id}.csv`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(file), REST_MS);
  } catch (error) {
    put("statement-sub", error instanceof Refused ? error.message : "The service does not answer.");
  }
}

function beginStatement() {
  return showStatement([], periodAddress({ limit: ROWS }));
}

function local(at) {
  return new Date(at.getTime() - at.getTimezoneOffset() * 60000).toISOString().slice(0, 19);
}

let isStatementBegun = false;

async function goOn() {
  const waitMs = document.hidden ? AGAIN_MS : await refresh();
  if (!isStatementBegun && known) {
    isStatementBegun = true;
    beginStatement();
  }
  setTimeout(goOn, waitMs);
}

put("account", id);
document.title = `${id} – Sub-Balance`;
const hourAgo = new Date(Date.now() - 3600000);
byId("from").value = local(hourAgo);
byId("period").addEventListener("submit", (event) => {
  event.preventDefault();
  beginStatement();
});
byId("csv").addEventListener("click", saveStatement);
goOn();
