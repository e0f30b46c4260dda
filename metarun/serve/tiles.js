// A place for one example: paper to draw on, or a text. Both are {element, value(), picture(), clear(), put(file)}.

const SIDE = 216; // pixels of a drawing
const LARGE = 500_000; // bytes of a file above which it is made smaller before it is sent
const LARGEST = 1024; // then its longer side, in pixels

export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

// Black on white, by mouse, finger or pen; with the keyboard the arrows move the pen, and space puts it down.
export function paper(pen, changed) {
  const canvas = make("canvas", { width: SIDE, height: SIDE, tabIndex: 0 });
  const name = make("span", { className: "name" });
  const clear = make("button", { type: "button", className: "small", textContent: "Clear", disabled: true });
  const row = make("div", { className: "row" }, name, clear);
  const element = make("div", { className: "tile" }, canvas, row);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  let content = null; // of a file, in base64: it is sent as it is
  let drawn = false, down = false, at = [SIDE / 2, SIDE / 2];

  const blank = () => {
    context.fillStyle = "#fff";
    context.fillRect(0, 0, SIDE, SIDE);
    [content, drawn, down, at] = [null, false, false, [SIDE / 2, SIDE / 2]];
    [name.textContent, name.title, clear.disabled] = ["", "", true];
  };
  const line = (from, to) => {
    if (content !== null) blank();
    Object.assign(context, { lineWidth: pen() * SIDE / 108, lineCap: "round", lineJoin: "round", strokeStyle: "#000" });
    context.beginPath();
    context.moveTo(...from);
    context.lineTo(...to);
    context.stroke();
    [drawn, at, clear.disabled] = [true, to, false];
  };
  const place = event => {
    const box = canvas.getBoundingClientRect();
    return [(event.clientX - box.left) * SIDE / box.width, (event.clientY - box.top) * SIDE / box.height];
  };

  canvas.addEventListener("pointerdown", event => {
    if (event.button !== 0) return;
    canvas.setPointerCapture(event.pointerId);
    const start = place(event);
    line(start, start);
    down = true;
  });
  canvas.addEventListener("pointermove", event => {
    if (!down || !event.buttons) return;
    for (const one of event.getCoalescedEvents?.() ?? []) line(at, place(one));
    line(at, place(event));
  });
  for (const end of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(end, () => {
      if (down) changed();
      down = false;
    });
  }
  canvas.addEventListener("keydown", event => {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (event.key === " ") {
      down = !down;
      if (down) line(at, at); else changed();
      name.textContent = down ? "pen down" : "";
    } else if (event.key in moves) {
      const to = at.map((where, i) => Math.min(SIDE, Math.max(0, where + moves[event.key][i] * SIDE / 18)));
      if (down) line(at, to); else at = to;
      name.textContent = `${Math.round(100 * at[0] / SIDE)}, ${Math.round(100 * at[1] / SIDE)}${down ? " down" : ""}`;
    } else return;
    event.preventDefault();
  });
  clear.addEventListener("click", () => {
    blank();
    changed();
    canvas.focus();
  });
  blank();

  return {
    element,
    clear: blank,
    value: () => content ?? (drawn ? base64(canvas.toDataURL("image/png")) : null),
    picture: () => make("img", { className: "picture", alt: "", src: canvas.toDataURL("image/png") }),
    label: text => canvas.setAttribute("aria-label", `${text}: draw here. Arrows move the pen, space puts it down.`),
    put: async file => {
      blank();
      const image = await createImageBitmap(file).catch(() => null); // a format that browsers do not know: as it is
      let kept = file;
      if (image) {
        const scale = SIDE / Math.max(image.width, image.height);
        const [w, h] = [image.width * scale, image.height * scale];
        context.drawImage(image, (SIDE - w) / 2, (SIDE - h) / 2, w, h);
        if (file.size > LARGE) kept = await smaller(image);
      }
      content = base64(await dataUrl(kept));
      [name.textContent, name.title, clear.disabled] = [file.name, file.name, false];
    },
  };
}

function smaller(image) {
  const scale = Math.min(1, LARGEST / Math.max(image.width, image.height));
  const canvas = make("canvas", { width: Math.round(image.width * scale), height: Math.round(image.height * scale) });
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  return new Promise(done => canvas.toBlob(done, "image/jpeg", 0.95));
}

const base64 = url => url.slice(url.indexOf(",") + 1);

function dataUrl(blob) {
  return new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result);
    reader.onerror = () => failed(reader.error);
    reader.readAsDataURL(blob);
  });
}

export function writing(most, changed) {
  const area = make("textarea", { rows: 2, maxLength: most });
  const element = make("div", { className: "tile texts" }, area);
  area.addEventListener("input", changed);
  return {
    element,
    clear: () => { area.value = ""; },
    value: () => area.value.trim() || null,
    picture: () => make("span", { className: "quote", textContent: area.value.trim() }),
    label: text => area.setAttribute("aria-label", text),
    // What is too long is cut between two characters: a half of one at the end goes, too.
    put: async file => { area.value = (await file.text()).slice(0, most).replace(/[\ud800-\udbff]$/, ""); },
  };
}
