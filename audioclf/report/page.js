"use strict";
// Okabe and Ito's colours: told apart by the colour-blind, on light ground and dark.
const COLOURS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#8c6bb1"];
const OTHER = "#8a9294";
const RECORDINGS_SHOWN = 40;
const drawn = [];

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function themed(layout) {
  const axis = { gridcolor: colour("--line"), zerolinecolor: colour("--line"), automargin: true, ticksuffix: " " };
  const base = {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", colorway: COLOURS,
    font: { color: colour("--text"), family: "system-ui, sans-serif", size: 13 },
    margin: { l: 50, r: 15, t: 10, b: 45 }, bargap: 0.15, dragmode: false,
    legend: { orientation: "h", y: 1.02, yanchor: "bottom" },
  };
  const whole = { ...base, ...layout, xaxis: { ...axis, ...layout.xaxis }, yaxis: { ...axis, ...layout.yaxis } };
  return whole;
}

// Plotly's own choices for these are made for light ground.
function inked(trace) {
  const ink = colour("--text");
  return {
    ...trace,
    ...(trace.error_x && { error_x: { ...trace.error_x, color: ink } }),
    ...(trace.type === "heatmap" && matchMedia("(prefers-color-scheme: dark)").matches && { textfont: { color: ink } }),
  };
}

function draw(element, data, layout) {
  drawn.push([element, data, layout]);
  Plotly.react(element, data.map(inked), themed(layout), { responsive: true, displayModeBar: false });
}

// Outside text: Plotly reads tags in labels, and &lt; as a less-than sign.
function words(text) {
  return text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
}

function explore(root, found) {
  const form = root.querySelector("form");
  const part = (role) => root.querySelector(`[data-role=${role}]`);
  const counts = new Map();
  for (const [, tag] of found.events) counts.set(tag, (counts.get(tag) || 0) + 1);
  const common = [...counts.keys()].sort((a, b) => counts.get(b) - counts.get(a)).slice(0, COLOURS.length);
  const paint = (tag) => common.includes(tag) ? COLOURS[common.indexOf(tag)] : OTHER;
  const hasDay = found.events.some((event) => event[5] !== null);
  for (const role of ["day", "day-title"]) part(role).hidden = !hasDay;

  function bars(chosen, hourOf, unit, least) {
    const seconds = new Map();
    for (const event of chosen) {
      const key = common.includes(event[1]) ? event[1] : -1;
      if (!seconds.has(key)) seconds.set(key, new Map());
      const hour = hourOf(event);
      seconds.get(key).set(hour, (seconds.get(key).get(hour) || 0) + (event[3] - event[2]) / 60);
    }
    const last = Math.max(0, ...chosen.map(hourOf));
    const traces = [...seconds].map(([tag, hours]) => ({
      type: "bar", name: tag < 0 ? "other tags" : words(found.tags[tag]), marker: { color: tag < 0 ? OTHER : paint(tag) },
      x: [...hours.keys()], y: [...hours.values()], hovertemplate: `${unit} %{x}: %{y:.1f} min<extra>%{fullData.name}</extra>`,
    }));
    return [traces, {
      barmode: "stack", xaxis: { title: { text: unit }, dtick: last > 30 ? undefined : 1, range: [-0.6, Math.max(last, least) + 0.6] }, yaxis: { title: { text: "minutes" } },
    }];
  }

  function timeline(chosen) {
    const of = new Map();
    for (const event of chosen) of.set(event[0], (of.get(event[0]) || 0) + 1);
    const rows = [...of.keys()].sort((a, b) => of.get(b) - of.get(a)).slice(0, RECORDINGS_SHOWN).sort((a, b) => b - a);
    const place = new Map(rows.map((recording, i) => [recording, i]));
    const shown = chosen.filter((event) => place.has(event[0]));
    const trace = {
      type: "bar", orientation: "h", y: shown.map((event) => place.get(event[0])), base: shown.map((event) => event[2]),
      x: shown.map((event) => event[3] - event[2]), width: 0.7,
      marker: { color: shown.map((event) => paint(event[1])), opacity: shown.map((event) => 0.25 + 0.75 * event[4]) },
      text: shown.map((e) => `${words(found.tags[e[1]])}, ${e[4].toFixed(2)}`), textposition: "none",
      hovertemplate: "%{text}<br>%{base:.1f} s to %{x:.1f} s<extra></extra>",
    };
    const names = rows.map((recording) => {
      const name = found.recordings[recording];
      const most = root.clientWidth < 600 ? 14 : 38;
      return words(name.length > most ? "…" + name.slice(1 - most) : name);
    });
    part("timeline").style.height = `${90 + 26 * Math.max(rows.length, 2)}px`;
    return [[trace], {
      barmode: "overlay", xaxis: { title: { text: "seconds" }, rangemode: "tozero" },
      yaxis: { tickvals: rows.map((_, i) => i), ticktext: names, range: [-0.6, rows.length - 0.4], showgrid: false },
    }];
  }

  function update() {
    const tag = form.elements.tag.value, least = Number(form.elements.least.value);
    form.querySelector("output").textContent = least.toFixed(2);
    const chosen = found.events.filter((e) => (tag === "" || e[1] === Number(tag)) && e[4] >= least);
    const recordings = new Set(chosen.map((event) => event[0])).size;
    root.querySelector(".count").textContent =
      `${chosen.length} of ${found.events.length} events, in ${recordings} recordings` +
      (recordings > RECORDINGS_SHOWN ? ` (the ${RECORDINGS_SHOWN} with most are drawn)` : "");
    draw(part("timeline"), ...timeline(chosen));
    draw(part("hours"), ...bars(chosen, (event) => Math.floor(event[2] / 3600), "hour", 5));
    if (hasDay) draw(part("day"), ...bars(chosen.filter((event) => event[5] !== null), (event) => event[5], "hour of the day", 23));
  }
  form.addEventListener("input", update);
  form.addEventListener("submit", (event) => event.preventDefault());
  update();
}

for (const element of document.querySelectorAll(".chart:not([data-role])")) {
  const chart = JSON.parse(element.nextElementSibling.textContent);
  draw(element, chart.data, chart.layout);
}
for (const root of document.querySelectorAll(".explorer")) {
  explore(root, JSON.parse(root.nextElementSibling.textContent));
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  const latest = new Map(drawn.splice(0).map(([element, data, layout]) => [element, [data, layout]]));
  for (const [element, [data, layout]] of latest) draw(element, data, layout);
});
