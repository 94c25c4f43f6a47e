"use strict";
// The threshold explorer, which pages of two classes have: the slider, or a press on a curve, chooses a threshold; the table and the curves' dots follow.
if (document.getElementById("threshold")) {
  const { thresholds, counts, start } = JSON.parse(document.getElementById("threshold-counts").textContent);
  const explorer = document.getElementById("threshold");
  const slider = explorer.querySelector("input");
  const ratio = (part, whole) => (whole ? part / whole : NaN);

  function figures([tn, fp, fn, tp]) {
    return {
      accuracy: ratio(tn + tp, tn + fp + fn + tp),
      precision: ratio(tp, tp + fp),
      recall: ratio(tp, tp + fn),
      f1: ratio(2 * tp, 2 * tp + fp + fn),
      tn, fp, fn, tp,
      falsePositiveRate: ratio(fp, fp + tn),
    };
  }

  const columns = Object.entries(counts).map(([phase, rows]) => ({ phase, at: rows.map(figures) }));
  const points = columns.filter(({ phase }) => phase !== "validation"); // the curves are of the test images
  const charts = [
    makeChart("roc", (figure) => [figure.falsePositiveRate, figure.recall]),
    makeChart("precision_recall", (figure) => [figure.recall, figure.precision]),
  ].filter(Boolean);

  function makeChart(name, place) {
    const unit = document.getElementById(`${name}-unit`);
    if (!unit) return null; // the test set holds one class only
    const svg = unit.ownerSVGElement;
    const toDrawing = ([x, y]) => {
      const box = unit.getBBox();
      return [box.x + x * box.width, box.y + (1 - y) * box.height];
    };
    const dots = points.map(({ phase, at }) => {
      const dot = document.createElementNS(svg.namespaceURI, "circle");
      dot.setAttribute("r", 5);
      dot.setAttribute("class", phase);
      svg.append(dot);
      return { dot, at };
    });
    svg.closest("figure").classList.add("choosable");

    function choose(event) {
      if (event.type === "pointermove" && !event.buttons) return;
      const pressed = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
      let nearest = Infinity;
      for (const { at } of points) {
        at.forEach((figure, index) => {
          const [x, y] = toDrawing(place(figure));
          const distance = Math.hypot(x - pressed.x, y - pressed.y);
          if (distance < nearest) [nearest, slider.value] = [distance, index];
        });
      }
      show();
    }
    svg.addEventListener("pointerdown", choose);
    svg.addEventListener("pointermove", choose);

    return (index) => {
      for (const { dot, at } of dots) {
        const [x, y] = toDrawing(place(at[index]));
        const defined = Number.isFinite(x + y);
        dot.setAttribute("visibility", defined ? "visible" : "hidden");
        if (defined) [dot.cx.baseVal.value, dot.cy.baseVal.value] = [x, y];
      }
    };
  }

  function text(name, value) {
    if (Number.isNaN(value)) return "undefined";
    return /^[tf][pn]$/.test(name) ? value.toLocaleString("en") : value.toFixed(3);
  }

  function inShort(threshold) {
    const short = Number(threshold.toPrecision(6));
    return String(short < 1 ? short : threshold);
  }

  function show() {
    const index = Number(slider.value);
    const threshold = inShort(thresholds[index]);
    slider.setAttribute("aria-valuetext", threshold);
    explorer.querySelector("output").value = threshold;
    for (const { phase, at } of columns) {
      for (const row of explorer.querySelectorAll("tr[data-figure]")) {
        const name = row.dataset.figure;
        row.querySelector(`[data-phase=${phase}]`).textContent = text(name, at[index][name]);
      }
    }
    for (const move of charts) move(index);
  }

  slider.addEventListener("input", show);
  explorer.querySelector("button").addEventListener("click", () => {
    slider.value = start;
    show();
  });
  explorer.hidden = false;
  show();
}

// MLflow shows the page from a blob: address, whose links to parts of itself the browser refuses to follow.
if (location.protocol === "blob:") {
  for (const link of document.querySelectorAll(".contents a")) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      document.querySelector(link.hash).scrollIntoView();
    });
  }
}
