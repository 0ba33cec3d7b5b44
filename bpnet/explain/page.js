"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const reduced = matchMedia("(prefers-reduced-motion: reduce)");
  const groups = data.layers.map((_, g) => g);
  let sample = data.samples[0];
  const chosen = data.layers.map((layer) => layer.start);
  let tour = [], at = 0, drawn = null, started = false;

  const sceneOf = (g) => data.scenes.find((s) => s.group === g && s.sample === sample && s.neuron === chosen[g]);

  /* The walk: forward through every layer's drawing, then backward from the last. */
  function plan() {
    tour = [];
    for (const phase of ["forward", "backward"]) {
      const order = phase === "forward" ? groups : [...groups].reverse();
      for (const g of order) {
        sceneOf(g).steps.forEach((step, k) => { if (step.phase === phase) tour.push({ g, k, step }); });
      }
    }
    $("slider").max = tour.length - 1;
  }

  const element = (tag, text, attributes = {}) => {
    const made = document.createElement(tag);
    made.textContent = text;
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    return made;
  };

  function layers(current) {
    const nav = $("layers");
    if (!nav.children.length) {
      data.layers.forEach((layer, g) => {
        if (g) nav.append(element("span", "→", { class: "then", "aria-hidden": "true" }));
        const button = element("button", layer.title, { type: "button" });
        if (layer.facts) button.append(element("small", layer.facts));
        button.addEventListener("click", () => {
          const phase = tour[at].step.phase;
          go(tour.findIndex((t) => t.g === g && t.step.phase === phase));
        });
        nav.append(button);
      });
    }
    [...nav.querySelectorAll("button")].forEach((button, g) => {
      if (g === current) button.setAttribute("aria-current", "step"); else button.removeAttribute("aria-current");
    });
  }

  function choices(g) {
    const holder = $("choices");
    const neurons = [...new Set(data.scenes.filter((s) => s.group === g).map((s) => s.neuron))];
    const had = document.activeElement && holder.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    holder.replaceChildren();
    const row = (title, values, present, set) => {
      if (values.length < 2) return;
      const group = element("div", "", { role: "group", "aria-label": title });
      group.append(element("span", title));
      for (const value of values) {
        const button = element("button", value, {
          type: "button", "aria-pressed": value === present, "aria-label": `${title} ${value}`, "data-key": title + value,
        });
        button.addEventListener("click", () => {
          const { g: here, step } = tour[at];
          const op = step.op, phase = step.phase;
          set(value);
          plan();
          drawn = null;
          const same = tour.findIndex((t) => t.g === here && t.step.phase === phase && t.step.op === op);
          go(same >= 0 ? same : tour.findIndex((t) => t.g === here && t.step.phase === phase));
        });
        group.append(button);
      }
      holder.append(group);
    };
    row("Sample", data.samples, sample, (value) => { sample = value; });
    row("Neuron", neurons, chosen[g], (value) => { chosen[g] = value; });
    if (had) [...holder.querySelectorAll("button")].find((b) => b.dataset.key === had)?.focus();
  }

  function answer(text) {
    let place = $("zeros").querySelector(".answer");
    if (!place) $("zeros").append(place = element("p", "", { class: "answer", role: "status" }));
    place.textContent = text;
  }

  function zeros(scene, backward) {
    const place = $("zeros");
    place.replaceChildren();
    if (!backward || !scene.zero.length) return;
    place.append(element("p", "Gradients that are zero here. Why?"));
    for (const [label, why] of scene.zero) {
      const button = element("button", `d${label}`, { type: "button", "aria-label": `Why is d${label} zero?` });
      button.addEventListener("click", () => answer(why));
      place.append(button);
    }
  }

  function draw(scene) {
    if (drawn === scene) return;
    drawn = scene;
    $("figure").innerHTML = scene.wide + scene.tall;
    for (const node of $("figure").querySelectorAll(".node")) {
      node.addEventListener("click", () => {
        const lit = node.dataset.lit.split(" ").map(Number), phase = tour[at].step.phase;
        const hit = tour.findIndex((t) => sceneOf(t.g) === scene && lit.includes(t.k) && t.step.phase === phase);
        if (hit >= 0) go(hit);
      });
    }
    for (const zero of $("figure").querySelectorAll("[data-why]")) {
      zero.addEventListener("click", () => answer(zero.dataset.why));
      zero.addEventListener("keydown", (event) => {
        if (event.key === "Enter" || event.key === " ") { event.preventDefault(); answer(zero.dataset.why); }
      });
    }
  }

  function table(rows) {
    const holder = $("rows");
    holder.replaceChildren();
    if (!rows.length) return;
    const made = element("table", "");
    made.append(element("caption", "local derivative × upstream = product"));
    const named = rows.some((row) => row[0]);
    const head = made.createTHead().insertRow();
    const titles = [...(named ? ["by"] : []), "local", "× upstream", "= gradient"];
    for (const title of titles) head.append(element("th", title, { scope: "col" }));
    const body = made.createTBody();
    for (const [by, ...numbers] of rows) {
      const line = body.insertRow();
      if (named) line.append(element("th", by, { scope: "row" }));
      for (const number of numbers) line.append(element("td", number));
    }
    holder.append(made);
  }

  function go(to) {
    at = Math.max(0, Math.min(tour.length - 1, to));
    const { g, k, step } = tour[at], scene = sceneOf(g);
    draw(scene);
    let shown = null;
    for (const each of $("figure").querySelectorAll("[data-from], [data-lit]")) {
      const lit = each.dataset.lit !== undefined && each.dataset.lit.split(" ").includes(String(k));
      each.classList.toggle("lit", lit);
      if (each.dataset.from !== undefined) {
        const later = Number(each.dataset.from) > k;
        each.classList.toggle("later", later);
        if (later) each.setAttribute("aria-hidden", "true"); else each.removeAttribute("aria-hidden");
        if (each.dataset.why) each.setAttribute("tabindex", later ? "-1" : "0");
      }
      if (lit && each.classList.contains("node") && each.getBoundingClientRect().width) shown = each;
    }
    layers(g);
    choices(g);
    $("where").textContent = `Step ${at + 1} of ${tour.length}, ${step.phase}: ${scene.title}, neuron ${scene.neuron}, sample ${scene.sample}`;
    $("op").textContent = step.op;
    $("words").textContent = step.words;
    table(step.rows);
    zeros(scene, step.phase === "backward");
    $("slider").value = at;
    $("slider").setAttribute("aria-valuetext", `Step ${at + 1} of ${tour.length}: ${step.phase}, ${step.op}`);
    $("back").disabled = at === 0;
    $("next").disabled = at === tour.length - 1;
    document.body.dataset.step = at;
    if (shown && started) reveal(shown);
  }

  /* Scroll so that the words can be read and, before them, the node can be seen. */
  function reveal(node) {
    const low = $("controls").getBoundingClientRect().top - 8, box = node.getBoundingClientRect();
    const behavior = reduced.matches ? "auto" : "smooth";
    let by = Math.max(0, $("said").getBoundingClientRect().bottom - low);
    by = Math.min(by, box.top - 44);
    if (box.bottom - by > low) by = box.bottom - low;
    if (Math.abs(by) > 1) scrollBy({ top: by, behavior });
  }

  $("back").addEventListener("click", () => go(at - 1));
  $("next").addEventListener("click", () => go(at + 1));
  $("slider").addEventListener("input", () => go(Number($("slider").value)));
  addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.target.closest?.("input, pre, select")) return;
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tour.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    go(to);
  });
  $("controls").hidden = false;
  plan();
  go(0);
  started = true;
})();
