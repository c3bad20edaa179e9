"use strict";

// Refreshes the status in place: no reload, so scroll position and focus stay.
const PERIOD_MS = 5000;
const LIMIT_MS = 15000; // the answer waits for servers that time out
const view = document.getElementById("status");
const updated = document.getElementById("updated");
const announcement = document.getElementById("announcement");
let answeredAt = Date.now();
let lostSince = null;

async function refresh() {
  try {
    const answer = await fetch("/fragment", { cache: "no-store", signal: AbortSignal.timeout(LIMIT_MS) });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    const html = await answer.text();
    if (getSelection().isCollapsed) view.innerHTML = html; // what somebody is about to copy stays where it is
    answeredAt = Date.now();
    lostSince = null;
    tell(view.querySelector("[data-verdict]").dataset);
  } catch {
    lostSince ??= answeredAt;
  }
  age();
  setTimeout(refresh, PERIOD_MS);
}

function tell({ verdict, announcement: text }) {
  document.title = document.title.replace(/^\w+/, verdict);
  if (announcement.textContent !== text) announcement.textContent = text;
}

function age() {
  const utc = new Date(lostSince ?? answeredAt).toISOString().slice(11, 19);
  const seconds = Math.round((Date.now() - answeredAt) / 1000);
  updated.textContent = lostSince ? `connection lost since ${utc} UTC` : `updated ${seconds} s ago, ${utc} UTC`;
  updated.classList.toggle("lost", lostSince !== null);
  view.classList.toggle("stale", lostSince !== null);
}

setInterval(age, 1000);
setTimeout(refresh, PERIOD_MS);
