// The page's only script: sorts, filters and pages its tables, shows items, and saves figures. Loads nothing.
(() => {
  "use strict";
  const ROWS_SHOWN = 25;
  const ITEMS_SHOWN = 20;
  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  };

  // A cell as data: [text, value, notes, tag, link]; the same form as in the page's JSON.
  function cellOf(element) {
    const value = element.dataset.v === undefined ? null : Number(element.dataset.v);
    const first = element.firstChild;
    return [first && first.nodeName !== "SMALL" ? first.textContent.trim() : "", value, [element.textContent], "", ""];
  }

  // A cell of the page's JSON leaves out what is empty at its end, and is a bare text if that is all.
  function whole(cell) {
    const [text, value = null, notes = [], tag = "", link = ""] = Array.isArray(cell) ? cell : [cell];
    return [text, value, notes, tag, link];
  }

  function fill(element, [text, , notes, tag, link]) {
    const look = text.length > 300 ? { class: "long" } : {};
    element.replaceChildren(link ? make("a", { href: "#items", "data-task": link, ...look }, text)
      : look.class ? make("span", look, text) : text);
    for (const note of notes) element.append(make("small", {}, note));
    if (tag) element.append(" ", make("span", { class: "tag" }, tag));
  }

  const collator = new Intl.Collator("en", { numeric: true });

  class SortedTable {
    // rows: [{cells, element}]; an element is made when the row is shown for the first time.
    constructor(table, rows, makeRow, most = ROWS_SHOWN) {
      this.most = most;
      this.table = table;
      this.body = table.tBodies[0];
      this.rows = rows;
      this.makeRow = makeRow;
      this.shown = rows;
      this.page = 0;
      this.sorted = null;
      this.sortButtons();
      this.tools();
      this.show();
    }

    sortButtons() {
      [...this.table.tHead.rows[0].cells].forEach((head, index) => {
        const label = head.firstElementChild || head.appendChild(make("span"));
        const button = make("button", { type: "button" });
        label.replaceWith(button);
        button.append(label, make("span", { class: "arrow", "aria-hidden": "true" }));
        head.setAttribute("aria-sort", "none");
        button.addEventListener("click", () => this.sort(index, head));
      });
    }

    tools() {
      const id = this.table.id + "-filter";
      this.input = make("input", { type: "search", id, autocomplete: "off", spellcheck: "false" });
      this.status = make("span", { role: "status" });
      this.before = make("button", { type: "button" }, "Earlier rows");
      this.after = make("button", { type: "button" }, "Later rows");
      this.before.addEventListener("click", () => this.turn(-1));
      this.after.addEventListener("click", () => this.turn(1));
      this.input.addEventListener("input", () => this.filter());
      const bar = make("div", { class: "tools" }, make("label", { for: id }, "Filter rows"), this.input, this.status,
        this.before, this.after);
      this.table.closest(".scroll").before(bar);
      const old = this.table.closest(".block").querySelector(".scroll + .note");
      if (old) old.remove();
    }

    turn(by) {
      this.page += by;
      this.show();
      this.table.closest(".scroll").scrollIntoView({ block: "nearest" });
    }

    filter() {
      const words = this.input.value.toLowerCase().split(/\s+/).filter(Boolean);
      this.shown = this.rows.filter((row) => {
        row.words ??= row.cells.map(([text, , notes, tag]) => [text, ...notes, tag].join(" ")).join(" ").toLowerCase();
        return words.every((word) => row.words.includes(word));
      });
      this.page = 0;
      this.show();
    }

    sort(index, head) {
      const order = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
      for (const other of this.table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const numeric = head.classList.contains("number");
      const none = (row) => numeric ? row.cells[index][1] === null : row.cells[index][0] === "";
      const compare = (a, b) => {
        if (none(a) || none(b)) return none(a) - none(b);
        const [x, y] = [a.cells[index], b.cells[index]];
        return sign * (numeric ? x[1] - y[1] : collator.compare(x[0].slice(0, 200), y[0].slice(0, 200)));
      };
      this.rows.sort(compare);
      this.filter();
    }

    show() {
      const pages = Math.max(1, Math.ceil(this.shown.length / this.most));
      this.page = Math.min(Math.max(0, this.page), pages - 1);
      const from = this.page * this.most;
      const visible = this.shown.slice(from, from + this.most);
      this.body.replaceChildren(...visible.map((row) => (row.element ??= this.makeRow(row))));
      const all = this.rows.length === this.shown.length ? "" : ` of ${this.rows.length.toLocaleString("en")}`;
      const count = `${this.shown.length.toLocaleString("en")}${all} row${this.rows.length === 1 ? "" : "s"}`;
      this.status.textContent = pages > 1 ? `${from + 1} to ${from + visible.length} of ${count}` : count;
      this.before.hidden = this.after.hidden = pages === 1;
      this.before.disabled = this.page === 0;
      this.after.disabled = this.page === pages - 1;
    }
  }

  function plainRow(numbers) {
    return (row) => make("tr", {}, ...row.cells.map((cell, index) => {
      const element = index ? make("td", numbers[index] ? { class: "number" } : {}) : make("th", { scope: "row" });
      fill(element, cell);
      return element;
    }));
  }

  function enhance(table) {
    const data = document.getElementById(table.id + "-rows");
    const numbers = [...table.tHead.rows[0].cells].map((head) => head.classList.contains("number"));
    const rows = data
      ? JSON.parse(data.textContent).map((cells) => ({ cells: cells.map(whole) }))
      : [...table.tBodies[0].rows].map((element) => ({ element, cells: [...element.cells].map(cellOf) }));
    new SortedTable(table, rows, plainRow(numbers));
  }

  // Items: a table of one task, made when it is asked for; a row opens below itself.
  function described(detail) {
    const list = make("dl", { class: "facts" });
    for (const [name, text] of Object.entries(detail)) {
      list.append(make("dt", { dir: "auto" }, name), make("dd", { class: "text", dir: "auto" }, text));
    }
    return list;
  }

  function opened(task, [id, , shared, own], columns) {
    const place = make("td", { colspan: columns, class: "detail" });
    const parts = Object.keys(shared).length ? [described(shared)] : [];
    own.forEach((detail, index) => {
      if (!Object.keys(detail).length) return;
      parts.push(make("h4", { class: "m" + index % 8 }, make("span", { class: "name" }, task.members[index])), described(detail));
    });
    place.append(...(parts.length ? parts : [make("p", { class: "note" }, `Nothing else was kept of ${id}.`)]));
    return make("tr", { class: "opened" }, place);
  }

  function itemRow(task) {
    return ({ item, cells }) => {
      const button = make("button", { type: "button", "aria-expanded": "false", class: "item" }, make("bdi", {}, item[0]));
      const values = cells.slice(1).map((cell) => make("td", { class: "number" }, cell[0]));
      const row = make("tr", {}, make("th", { scope: "row" }, button), ...values);
      let detail = null;
      button.addEventListener("click", () => {
        const open = button.getAttribute("aria-expanded") === "true";
        button.setAttribute("aria-expanded", String(!open));
        if (open) detail.remove();
        else row.after((detail ??= opened(task, item, cells.length)));
      });
      return row;
    };
  }

  function showItems(key) {
    const place = document.getElementById("item-table");
    const data = [...document.querySelectorAll("script[data-items]")].find((one) => one.dataset.items === key);
    if (!data) return;
    const task = JSON.parse(data.textContent);
    const caption = `${task.title}: ${task.metric.replaceAll("_", " ")} of each item; the members differ on ` +
      `${Number(data.dataset.differ).toLocaleString("en")} of ${Number(data.dataset.count).toLocaleString("en")} items`;
    const heads = ["Item", ...task.members, "Spread"].map((label, index) => make("th",
      { scope: "col", class: index ? "number" : "" }, make("span", { class: "head" }, label)));
    const id = "items-of-task";
    const table = make("table", { class: "data", id }, make("caption", { id: id + "-caption" }, caption),
      make("thead", {}, make("tr", {}, ...heads)), make("tbody"));
    const scroll = make("div", { class: "scroll", role: "region", tabindex: "0", "aria-labelledby": id + "-caption" }, table);
    place.replaceChildren(make("div", { class: "block" }, scroll));
    hint(scroll);
    const cell = (value) => [value === null ? "" : String(value), value, [], "", ""];
    const rows = task.items.map((item) => {
      const known = item[1].filter((value) => value !== null);
      const spread = Number((Math.max(...known) - Math.min(...known)).toPrecision(4));
      return { item, cells: [[item[0], null, [JSON.stringify(item[2])], "", ""], ...item[1].map(cell), cell(spread)] };
    });
    new SortedTable(table, rows, itemRow(task), ITEMS_SHOWN);
  }

  // A figure as a file: the page's colours are written into a copy.
  function save(figure) {
    const drawn = figure.querySelector("svg");
    const copy = drawn.cloneNode(true);
    const style = getComputedStyle(figure);
    const { width, height } = drawn.viewBox.baseVal;
    for (const [name, value] of [["xmlns", "http://www.w3.org/2000/svg"], ["width", width], ["height", height],
      ["font-family", "sans-serif"]]) copy.setAttribute(name, value);
    const ground = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    for (const [name, value] of [["width", "100%"], ["height", "100%"], ["fill", "var(--paper)"]]) ground.setAttribute(name, value);
    copy.prepend(ground);
    const text = new XMLSerializer().serializeToString(copy)
      .replace(/var\((--[a-z0-9-]+)\)/g, (_, name) => style.getPropertyValue(name).trim());
    const address = URL.createObjectURL(new Blob([text], { type: "image/svg+xml" }));
    make("a", { href: address, download: figure.id.replace(/^figure-/, "") + ".svg" }).click();
    setTimeout(() => URL.revokeObjectURL(address), 1000);
  }

  // A table that is wider than the window says so; whether it is can change with the window and with the rows shown.
  function hint(scroll) {
    const words = make("p", { class: "hint" }, "Scroll sideways for more columns \u2192");
    scroll.after(words);
    new ResizeObserver(() => { words.hidden = scroll.scrollWidth <= scroll.clientWidth + 1; }).observe(scroll);
  }

  function start() {
    for (const table of document.querySelectorAll("table.data[data-tools]")) enhance(table);
    const choice = document.getElementById("item-task");
    for (const scroll of document.querySelectorAll(".scroll")) hint(scroll);
    if (choice) {
      choice.addEventListener("change", () => showItems(choice.value));
      showItems(choice.value);
      document.addEventListener("click", (event) => {
        const link = event.target.closest("a[data-task]");
        if (!link) return;
        choice.value = link.dataset.task;
        showItems(choice.value);
      });
    }
    for (const figure of document.querySelectorAll("figure[id]")) {
      if (!figure.querySelector("svg")) continue;
      const button = make("button", { type: "button", class: "save" }, "SVG");
      button.append(make("span", { class: "hidden" }, " of this figure"));
      button.addEventListener("click", () => save(figure));
      figure.querySelector("figcaption").append(" ", button);
    }
    document.documentElement.dataset.ready = "yes";
  }
  start();
})();
