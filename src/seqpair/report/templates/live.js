// Keeps an open page up to date while `seqpair watch` serves it: asks for the folder's version, and loads the page
// again when it has changed. What the reader has open, sorted, typed and scrolled to is put back.
(() => {
  "use strict";
  const { version, everyMs } = document.currentScript.dataset;
  const box = document.getElementById("seqpair-live");
  const text = box.querySelector("span");
  const button = box.querySelector("button");
  const key = "seqpair-live " + document.title;
  const loaded = new Date().toLocaleTimeString();
  const all = (selector) => [...document.querySelectorAll(selector)];
  const FOCUSABLE = "a[href], button, summary, input, select, textarea, [tabindex]";

  // An element's place: its id, or its number among its kind in its section, so that new sections move nothing.
  function place(element, selector) {
    if (element.id) return "#" + element.id;
    const section = element.closest("section[id]");
    const near = section ? [...section.querySelectorAll(selector)] : all(selector);
    return (section ? section.id : "") + "/" + near.indexOf(element);
  }

  function sorted() {
    return all("th[aria-sort]").filter((th) => th.getAttribute("aria-sort") !== "none")
      .map((th) => [place(th, "th"), th.getAttribute("aria-sort")]);
  }

  function save() {
    const anchor = all("section[id]").filter((one) => one.getBoundingClientRect().top <= 1).pop();
    const focused = document.activeElement;
    sessionStorage.setItem(key, JSON.stringify({
      open: all("details").map((one) => [place(one, "details"), one.open]),
      typed: all("input, select").map((one) => [place(one, "input, select"), one.value, one.checked]),
      sorted: sorted(),
      focus: focused && focused !== document.body ? place(focused, FOCUSABLE) : null,
      anchor: anchor ? [anchor.id, anchor.getBoundingClientRect().top] : null,
      scroll: [scrollX, scrollY],
    }));
  }

  function restore() {
    const kept = sessionStorage.getItem(key);
    if (!kept) return;
    sessionStorage.removeItem(key);
    const was = JSON.parse(kept);
    const found = (selector) => new Map(all(selector).map((one) => [place(one, selector), one]));
    const details = found("details"), inputs = found("input, select"), heads = found("th");
    for (const [where, open] of was.open) if (details.has(where)) details.get(where).open = open;
    for (const [where, value, checked] of was.typed) {
      const input = inputs.get(where);
      if (!input || (input.value === value && input.checked === checked)) continue;
      if (checked !== undefined) input.checked = checked;
      if (input.type !== "file") input.value = value;
      for (const kind of ["input", "change"]) input.dispatchEvent(new Event(kind, { bubbles: true }));
    }
    for (const [where, direction] of was.sorted) {
      const head = heads.get(where);
      for (let tries = 0; head && tries < 2 && head.getAttribute("aria-sort") !== direction; tries++) {
        (head.querySelector("button") || head).click();
      }
    }
    const focused = was.focus === null ? null : found(FOCUSABLE).get(was.focus);
    if (focused) focused.focus({ preventScroll: true });
    const anchor = was.anchor && document.getElementById(was.anchor[0]);
    const top = anchor ? scrollY + anchor.getBoundingClientRect().top - was.anchor[1] : was.scroll[1];
    scrollTo({ left: was.scroll[0], top, behavior: "instant" });
  }

  function busy() {
    const typing = document.activeElement && document.activeElement.matches("input, select, textarea");
    return typing || String(getSelection()) !== "" || document.querySelector("dialog[open]") !== null;
  }

  function reload() {
    save();
    location.reload();
  }

  function say(state) {
    const going = state.members.map((one) => {
      const step = one.steps ? `step ${one.total_step} of ${one.steps}` : `step ${one.total_step}`;
      const loss = one.loss === null ? "" : `, loss ${one.loss.toFixed(3)}`;
      const age = one.age_seconds < 60 ? "" : `, ${Math.round(one.age_seconds / 60)} min ago`;
      return `${one.member}: ${step}${loss}${age}`;
    });
    text.textContent = [`Live, page of ${loaded}`, ...going].join(" \u00b7 ");
  }

  let failures = 0;
  async function poll() {
    try {
      const answer = await fetch("version", { cache: "no-store" });
      if (!answer.ok) throw new Error(String(answer.status));
      const state = await answer.json();
      failures = 0;
      say(state);
      button.hidden = true;
      if (state.version !== version) {
        if (!busy() && !document.hidden) return reload();
        button.hidden = false;
      }
    } catch {
      failures += 1;
      text.textContent = `seqpair watch does not answer; this page is of ${loaded}`;
    }
    setTimeout(poll, Math.min(30_000, Number(everyMs) * 2 ** Math.min(failures, 5)));
  }

  history.scrollRestoration = "manual";
  button.addEventListener("click", reload);
  // The page's own scripts stand before this one; what they do on load comes first.
  addEventListener("load", () => { restore(); poll(); });
})();
