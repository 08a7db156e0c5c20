"use strict";
(() => {
  const root = document.documentElement;
  const book = JSON.parse(document.getElementById("figures").textContent);
  const system = matchMedia("(prefers-color-scheme: dark)");
  const touch = matchMedia("(pointer: coarse)").matches;
  const hidden = new Set();
  let chosen = null; // the theme that was asked for; null follows the system
  let narrow = innerWidth < 560;

  const isDark = () => (chosen || (system.matches ? "dark" : "light")) === "dark";
  const words = new Set(["text", "ticktext", "customdata", "meta", "name", "hovertemplate", "bdata"]);

  // A copy of a figure in which every light colour became its dark one.
  function themed(value, key) {
    if (typeof value === "string") return !words.has(key) && isDark() ? book.dark[value] || value : value;
    if (value === null || typeof value !== "object" || words.has(key)) return value;
    if (Array.isArray(value)) return value.map((each) => themed(each, key));
    return Object.fromEntries(Object.entries(value).map(([name, each]) => [name, themed(each, name)]));
  }

  function draw(place) {
    const figure = book.figures[place.dataset.figure];
    const data = figure.data.map((trace) => {
      const policy = trace.meta && trace.meta.policy;
      return Object.assign(themed(trace), { visible: !hidden.has(policy) });
    });
    const layout = Object.assign(themed(figure.layout), { dragmode: touch ? false : "zoom", autosize: true });
    if (narrow) {
      layout.font.size = 12;
      if (layout.meta && layout.meta.short) layout.yaxis.ticktext = layout.meta.short; // less room for names
    }
    return Plotly.react(place, data, layout, { responsive: true, displaylogo: false, displayModeBar: false, doubleClick: "reset+autosize" });
  }

  const places = () => Array.from(document.querySelectorAll(".plot"));
  const redraw = () => { if (window.Plotly) places().forEach(draw); };

  function listen() {
    document.getElementById("theme").addEventListener("click", () => {
      chosen = isDark() ? "light" : "dark";
      root.dataset.theme = chosen;
      redraw();
    });
    system.addEventListener("change", () => { if (!chosen) redraw(); });
    addEventListener("resize", () => {
      if (narrow !== innerWidth < 560) { narrow = !narrow; redraw(); }
    });
    for (const chip of document.querySelectorAll(".chip")) {
      const policy = chip.dataset.policy;
      chip.addEventListener("click", () => {
        if (!hidden.delete(policy)) hidden.add(policy);
        chip.setAttribute("aria-pressed", String(!hidden.has(policy)));
        redraw();
      });
      chip.addEventListener("dblclick", () => { // this one alone, or all again
        const others = book.policies.filter((name) => name !== policy);
        const alone = others.every((name) => hidden.has(name));
        hidden.clear();
        if (!alone) others.forEach((name) => hidden.add(name));
        document.querySelectorAll(".chip").forEach((each) => each.setAttribute("aria-pressed", String(!hidden.has(each.dataset.policy))));
        redraw();
      });
    }
    for (const select of document.querySelectorAll("select[data-for]")) {
      const place = document.getElementById(select.dataset.for);
      select.addEventListener("change", () => {
        place.dataset.figure = select.value;
        place.style.setProperty("--tall", select.selectedOptions[0].dataset.tall);
        Plotly.purge(place);
        draw(place);
      });
    }
  }

  // The drawing library travels compressed inside this page.
  async function unpack() {
    const packed = document.getElementById("plotly");
    const bytes = Uint8Array.from(atob(packed.textContent), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
    packed.remove();
  }

  async function start() {
    listen();
    if (!places().length) return;
    if (!("DecompressionStream" in window)) {
      places().forEach((place) => { place.textContent = "This browser is too old for the figures (needed: Chrome 80, Firefox 113, Safari 16.4 or newer)."; });
      return;
    }
    await unpack();
    for (const place of places()) await draw(place);
    root.dataset.drawn = "yes";
  }
  start();
})();
