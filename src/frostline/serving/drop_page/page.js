"use strict";
{
  const find = (selector) => document.querySelector(selector);
  const input = find(".drop input"), status = find(".status"), problem = find(".error"), result = find(".result");
  const shown = find(".shown"), heat = find(".heat"), toggle = find(".toggle input"), where = find(".where");
  const most = 5; // classes that are listed
  const percent = (share) => {
    // Rounding must not turn a doubt into certainty.
    const text = (100 * share).toFixed(1);
    return text === "100.0" && share < 1 ? "> 99.9%" : text === "0.0" && share > 0 ? "< 0.1%" : `${text}%`;
  };
  let asked = new AbortController();

  const refuse = (reason) => {
    status.textContent = "";
    problem.textContent = reason;
    problem.hidden = false;
    result.hidden = true;
  };

  // The map is of a square: all of the image, squashed, its largest centred square, or the smallest one around it.
  const layHeat = () => {
    const { naturalWidth: width, naturalHeight: height } = shown;
    const side = { crop: Math.min(width, height), pad: Math.max(width, height) }[find(".image").dataset.fit];
    const lay = (extent, start, length) => {
      const share = (100 * (side ?? length)) / length;
      heat.style[extent] = `${share}%`;
      heat.style[start] = `${(100 - share) / 2}%`;
    };
    lay("width", "left", width);
    lay("height", "top", height);
  };

  const showHeat = () => {
    heat.hidden = where.hidden = !toggle.checked;
  };

  const showAnswer = (answer, name) => {
    find(".class strong").textContent = answer.class;
    find(".class span").textContent = percent(answer.probability);
    const all = Object.entries(answer.probabilities).sort((a, b) => b[1] - a[1]);
    find("dl").replaceChildren(
      ...all.slice(0, most).flatMap(([label, share]) => {
        const [term, bar, value] = ["dt", "dd", "dd"].map((tag) => document.createElement(tag));
        term.textContent = label;
        bar.className = "bar";
        bar.ariaHidden = "true";
        bar.append(document.createElement("div"));
        bar.firstChild.style.width = `${100 * share}%`;
        value.textContent = percent(share);
        return [term, bar, value];
      }),
    );
    shown.alt = `${name}: ${answer.class}`;
    heat.src = answer.heat;
    heat.alt = where.textContent = `What speaks for ${answer.class} lies ${answer.where} (Grad‑CAM).`;
    shown.onload = layHeat;
    if (shown.naturalWidth) layHeat();
    shown.onerror = () => { shown.src = answer.seen; }; // a TIFF: the browser cannot, the server can
    if (shown.complete && !shown.naturalWidth) shown.onerror();
    showHeat();
    status.textContent = "";
    result.hidden = false;
  };

  const classify = async (file) => {
    asked.abort();
    const { signal } = (asked = new AbortController());
    problem.hidden = result.hidden = true;
    if (file.size > Number(input.dataset.limit)) return refuse(`more than ${input.dataset.limit / 2 ** 20} MiB`);
    status.textContent = `${file.name} …`;
    URL.revokeObjectURL(shown.src);
    shown.onload = shown.onerror = null;
    shown.src = URL.createObjectURL(file);
    try {
      const headers = { "Content-Type": file.type.startsWith("image/") ? file.type : "application/octet-stream" };
      const response = await fetch("invocations?explain=true", { method: "POST", body: file, headers, signal });
      const content = await response.json().catch(() => ({ error: `the server answers ${response.status}` }));
      if (response.ok) showAnswer(content.predictions[0], file.name);
      else refuse(`${file.name}: ${content.error}`);
    } catch (error) {
      if (!signal.aborted) refuse("the server does not answer");
    }
  };

  const take = (files) => {
    if (files.length) classify(files[0]);
  };

  input.addEventListener("change", () => {
    take(input.files);
    input.value = ""; // the same file again is a change, too
  });
  toggle.addEventListener("change", showHeat);
  addEventListener("paste", (event) => take(event.clipboardData.files));
  for (const name of ["dragover", "dragleave", "drop"]) {
    addEventListener(name, (event) => {
      event.preventDefault(); // else the browser leaves the page for the image
      document.body.classList.toggle("over", name === "dragover");
      if (name === "drop") take(event.dataTransfer.files);
    });
  }
}
