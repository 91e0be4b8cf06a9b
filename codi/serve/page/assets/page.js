// The page's own script: language, light and dark, players that show a sound, and pickers of intervals and boxes.
(() => {
  const language = window.codiLanguage || 'en';
  // Gradio's own few words follow the language of the browser; here they follow that of the page.
  for (const [name, value] of [['language', language], ['languages', [language]]]) {
    Object.defineProperty(navigator, name, { get: () => value, configurable: true });
  }
  document.documentElement.lang = language;

  // Light and dark ---------------------------------------------------------------------------------------
  const stored = () => { try { return localStorage.getItem('codi-mode'); } catch { return null; } };
  const settle = () => {
    const mode = stored();
    if (mode && document.body) document.body.classList.toggle('dark', mode === 'dark');
  };
  document.addEventListener('DOMContentLoaded', () => {
    settle();
    const watch = new MutationObserver(() => {
      const mode = stored();
      if (mode && document.body.classList.contains('dark') !== (mode === 'dark')) settle();
    });
    watch.observe(document.body, { attributes: true, attributeFilter: ['class'] });
  });
  document.addEventListener('click', (event) => {
    if (!event.target.closest('[data-mode]')) return;
    const dark = !document.body.classList.contains('dark');
    try { localStorage.setItem('codi-mode', dark ? 'dark' : 'light'); } catch { /* a private window */ }
    document.body.classList.toggle('dark', dark);
    document.dispatchEvent(new Event('codi-mode'));
  });
  document.addEventListener('click', (event) => {
    const link = event.target.closest('a.skip');
    const target = link && document.querySelector(link.getAttribute('href'));
    if (!target) return;
    event.preventDefault();
    target.focus();
    target.scrollIntoView();
  });

  // On a small screen the results lie below the form: what was asked for is brought into view.
  document.addEventListener('click', (event) => {
    if (!event.target.closest('#make') || window.innerWidth > 720) return;
    let tries = 40;
    const look = setInterval(() => {
      const problem = document.querySelector('#problem .problem');
      const begun = document.querySelector('#bars .bars');
      if (begun) document.querySelector('#results').scrollIntoView({ behavior: 'smooth' });
      if (begun || problem || !tries--) clearInterval(look);
    }, 150);
  });

  // Gradio's foldable parts do not say whether they are open.
  const unfolded = () => {
    for (const each of document.querySelectorAll('button.label-wrap')) {
      const open = String(each.classList.contains('open'));
      if (each.getAttribute('aria-expanded') !== open) each.setAttribute('aria-expanded', open);
    }
  };
  document.addEventListener('DOMContentLoaded', () => {
    let waiting = false;
    const later = () => {
      if (waiting) return;
      waiting = true;
      setTimeout(() => { waiting = false; unfolded(); }, 100);
    };
    new MutationObserver(later).observe(document.body, { subtree: true, childList: true, attributeFilter: ['class'] });
  });

  // Sounds as pictures -----------------------------------------------------------------------------------
  const RATE = 16000;
  async function decode(source) {
    const answer = await fetch(source);
    if (!answer.ok) throw new Error(answer.statusText);
    const context = new OfflineAudioContext(1, 1, RATE);
    const buffer = await context.decodeAudioData(await answer.arrayBuffer());
    return { samples: buffer.getChannelData(0), seconds: buffer.duration };
  }

  function sized(canvas) {
    const scale = window.devicePixelRatio || 1;
    const width = Math.max(1, Math.round(canvas.clientWidth * scale));
    const height = Math.max(1, Math.round(canvas.clientHeight * scale));
    if (canvas.width !== width) canvas.width = width;
    if (canvas.height !== height) canvas.height = height;
    const pen = canvas.getContext('2d');
    pen.clearRect(0, 0, width, height);
    return { pen, width, height, scale };
  }

  const colour = (element, name) => getComputedStyle(element).getPropertyValue(name).trim() || '#5f66e8';

  function drawWave(canvas, samples) {
    const { pen, width, height, scale } = sized(canvas);
    pen.fillStyle = colour(canvas, '--kind');
    const step = Math.max(2, Math.round(3 * scale));
    const thick = Math.max(1, Math.round(2 * scale));
    let top = 1e-4;
    for (const sample of samples) top = Math.max(top, Math.abs(sample));
    for (let x = 0; x < width; x += step) {
      const first = Math.floor((x / width) * samples.length);
      const last = Math.max(first + 1, Math.floor(((x + step) / width) * samples.length));
      let peak = 0;
      for (let k = first; k < last && k < samples.length; k++) peak = Math.max(peak, Math.abs(samples[k]));
      const tall = Math.max(thick, (peak / Math.max(top, 0.05)) * height * 0.92);
      pen.beginPath();
      pen.roundRect(x, (height - tall) / 2, thick, tall, thick / 2);
      pen.fill();
    }
  }

  // Magnitudes of one frame, by a radix-2 Fourier transform in place.
  function magnitudes(frame) {
    const size = frame.length;
    const real = Float32Array.from(frame);
    const imaginary = new Float32Array(size);
    for (let i = 1, j = 0; i < size; i++) {
      let bit = size >> 1;
      for (; j & bit; bit >>= 1) j ^= bit;
      j ^= bit;
      if (i < j) [real[i], real[j]] = [real[j], real[i]];
    }
    for (let length = 2; length <= size; length <<= 1) {
      const angle = (-2 * Math.PI) / length;
      for (let i = 0; i < size; i += length) {
        for (let k = 0; k < length / 2; k++) {
          const [c, s] = [Math.cos(angle * k), Math.sin(angle * k)];
          const [a, b] = [i + k, i + k + length / 2];
          const [x, y] = [real[b] * c - imaginary[b] * s, real[b] * s + imaginary[b] * c];
          [real[b], imaginary[b]] = [real[a] - x, imaginary[a] - y];
          [real[a], imaginary[a]] = [real[a] + x, imaginary[a] + y];
        }
      }
    }
    return real.slice(0, size / 2).map((value, k) => Math.hypot(value, imaginary[k]));
  }

  const SHADES = [[13, 17, 40], [58, 48, 140], [150, 55, 150], [232, 100, 90], [250, 180, 80], [255, 250, 205]];
  function shade(value) {
    const place = Math.min(0.9999, Math.max(0, value)) * (SHADES.length - 1);
    const [low, part] = [Math.floor(place), place - Math.floor(place)];
    return SHADES[low].map((from, k) => Math.round(from + (SHADES[low + 1][k] - from) * part));
  }

  function drawSpectrogram(canvas, samples) {
    const { pen, width, height } = sized(canvas);
    const size = 512;
    const columns = Math.min(width, 240);
    const rows = 96;
    const bins = size / 2;
    const picture = new ImageData(columns, rows);
    for (let column = 0; column < columns; column++) {
      const middle = Math.round(((column + 0.5) / columns) * samples.length);
      const frame = new Float32Array(size);
      for (let k = 0; k < size; k++) {
        const sample = samples[middle - size / 2 + k] || 0;
        frame[k] = sample * (0.5 - 0.5 * Math.cos((2 * Math.PI * k) / size));
      }
      const found = magnitudes(frame);
      for (let row = 0; row < rows; row++) {
        // rows are even in the square root of frequency: low notes are given room
        const place = ((rows - 1 - row) / (rows - 1)) ** 2 * (bins - 2) + 1;
        const level = 20 * Math.log10(found[Math.floor(place)] + 1e-5);
        const [r, g, b] = shade((level + 55) / 80);
        picture.data.set([r, g, b, 255], (row * columns + column) * 4);
      }
    }
    const small = new OffscreenCanvas(columns, rows);
    small.getContext('2d').putImageData(picture, 0, 0);
    pen.imageSmoothingEnabled = true;
    pen.drawImage(small, 0, 0, width, height);
  }

  // A clip or a sound over its waveform and spectrogram; a line goes along with what plays.
  class Player extends HTMLElement {
    connectedCallback() {
      if (this.views) return;
      this.media = this.querySelector('video, audio');
      this.views = document.createElement('div');
      this.views.className = 'views';
      this.canvases = ['waveform', 'spectrogram'].map((name) => {
        const canvas = document.createElement('canvas');
        canvas.className = name;
        canvas.setAttribute('role', 'img');
        canvas.setAttribute('aria-label', this.getAttribute(name) || name);
        this.views.append(canvas);
        return canvas;
      });
      this.line = document.createElement('span');
      this.line.className = 'playhead';
      this.views.append(this.line);
      this.append(this.views);
      this.views.addEventListener('click', (event) => {
        const { left, width } = this.views.getBoundingClientRect();
        if (this.media.duration) this.media.currentTime = ((event.clientX - left) / width) * this.media.duration;
      });
      const follow = () => {
        if (!this.isConnected) return;
        const part = this.media.duration ? this.media.currentTime / this.media.duration : 0;
        this.line.style.left = `${100 * part}%`;
        if (!this.media.paused) requestAnimationFrame(follow);
      };
      for (const name of ['play', 'seeked', 'timeupdate', 'pause']) this.media.addEventListener(name, follow);
      this.redraw = () => this.draw();
      document.addEventListener('codi-mode', this.redraw);
      this.resizes = new ResizeObserver(this.redraw);
      this.resizes.observe(this.views);
      decode(this.media.currentSrc || this.media.src).then(
        (sound) => { this.sound = sound; this.draw(); this.dataset.ready = 'yes'; },
        () => { this.views.hidden = true; this.dataset.ready = 'silent'; },
      );
    }
    disconnectedCallback() {
      document.removeEventListener('codi-mode', this.redraw);
      if (this.resizes) this.resizes.disconnect();
    }
    draw() {
      if (!this.sound || !this.isConnected) return;
      drawWave(this.canvases[0], this.sound.samples);
      drawSpectrogram(this.canvases[1], this.sound.samples);
    }
  }

  const picked = (element, value) => element.dispatchEvent(new CustomEvent('picked', { detail: value, bubbles: true }));
  const rounded = (value, digits) => Number(value.toFixed(digits));

  function field(parent, label, most, step) {
    const outer = document.createElement('label');
    outer.textContent = label;
    const input = document.createElement('input');
    Object.assign(input, { type: 'number', min: 0, max: most, step });
    outer.append(input);
    parent.append(outer);
    return input;
  }

  // What intervals and boxes have in common: a label, an area to drag over, fields to type in, a button to clear.
  class Picker extends HTMLElement {
    frame(names, most, step) {
      this.innerHTML = '';
      const group = document.createElement('fieldset');
      const legend = document.createElement('legend');
      legend.textContent = this.getAttribute('label') || '';
      this.area = document.createElement('div');
      this.area.className = 'area';
      const help = document.createElement('p');
      help.className = 'quiet';
      help.textContent = this.getAttribute('help') || '';
      const row = document.createElement('div');
      row.className = 'picked';
      this.inputs = names.map((name) => field(row, name, most, step));
      const clear = document.createElement('button');
      clear.type = 'button';
      clear.className = 'act';
      clear.textContent = this.getAttribute('clear') || '';
      clear.addEventListener('click', () => this.choose(null));
      row.append(clear);
      group.append(legend, help, this.area, row);
      this.append(group);
      for (const input of this.inputs) input.addEventListener('change', () => this.typed());
    }
    typed() {
      const values = this.inputs.map((input) => input.value);
      if (values.some((value) => value === '')) return;
      this.choose(values.map(Number));
    }
    drag(begun, moved, ended) {
      this.area.addEventListener('pointerdown', (event) => {
        event.preventDefault();
        this.area.setPointerCapture(event.pointerId);
        const bounds = this.area.getBoundingClientRect();
        const place = (each) => [
          Math.min(1, Math.max(0, (each.clientX - bounds.left) / bounds.width)),
          Math.min(1, Math.max(0, (each.clientY - bounds.top) / bounds.height)),
        ];
        const start = place(event);
        begun(start);
        const move = (each) => moved(start, place(each));
        const end = (each) => {
          this.area.removeEventListener('pointermove', move);
          ended(start, place(each));
        };
        this.area.addEventListener('pointermove', move);
        this.area.addEventListener('pointerup', end, { once: true });
      });
    }
  }

  class Span extends Picker {
    static observedAttributes = ['src', 'seconds'];
    connectedCallback() {
      this.seconds = Number(this.getAttribute('seconds')) || 2;
      this.frame([this.getAttribute('begin'), this.getAttribute('end')], this.seconds, 0.01);
      this.canvas = document.createElement('canvas');
      this.canvas.setAttribute('aria-hidden', 'true');
      this.mark = document.createElement('span');
      this.mark.className = 'mark';
      this.scale = document.createElement('div');
      this.scale.className = 'scale';
      this.area.append(this.canvas, this.mark, this.scale);
      const at = (part) => rounded(part * this.seconds, 2);
      this.drag(
        () => {},
        (from, to) => this.show([at(Math.min(from[0], to[0])), at(Math.max(from[0], to[0]))]),
        (from, to) => {
          const both = [at(Math.min(from[0], to[0])), at(Math.max(from[0], to[0]))];
          if (both[1] > both[0]) this.choose(both);
        },
      );
      this.ticks();
      this.load();
    }
    attributeChangedCallback(name, before, now) {
      if (!this.canvas || before === now) return;
      this.connectedCallback();
    }
    ticks() {
      this.scale.innerHTML = '';
      for (let k = 0; k <= 4; k++) {
        const tick = document.createElement('span');
        tick.textContent = `${rounded((k / 4) * this.seconds, 2)} s`;
        this.scale.append(tick);
      }
    }
    async load() {
      const source = this.getAttribute('src');
      if (!source) return;
      try {
        const sound = await decode(source);
        this.seconds = Math.min(sound.seconds, this.seconds) || sound.seconds;
        drawWave(this.canvas, sound.samples.subarray(0, Math.round(this.seconds * RATE)));
        this.ticks();
      } catch { /* a clip without a sound has a timeline alone */ }
    }
    show(both) {
      this.mark.style.display = both ? 'block' : 'none';
      if (!both) return;
      this.mark.style.left = `${(100 * both[0]) / this.seconds}%`;
      this.mark.style.width = `${(100 * (both[1] - both[0])) / this.seconds}%`;
      this.inputs.forEach((input, k) => { input.value = both[k]; });
    }
    choose(both) {
      if (!both) this.inputs.forEach((input) => { input.value = ''; });
      this.show(both);
      picked(this, both);
    }
  }

  class Box extends Picker {
    static observedAttributes = ['src', 'inside'];
    attributeChangedCallback(name, before, now) {
      if (this.mark && before !== now) this.connectedCallback();
    }
    connectedCallback() {
      this.frame((this.getAttribute('edges') || '').split(','), 1, 0.01);
      this.area.classList.add('square');
      this.mark = document.createElement('span');
      this.mark.className = 'mark';
      this.area.append(this.mark);
      const source = this.getAttribute('src');
      if (source) {  // the first frame of a clip, as the browser shows it
        const clip = document.createElement('video');
        Object.assign(clip, { src: `${source}#t=0.05`, muted: true, preload: 'auto' });
        clip.setAttribute('aria-hidden', 'true');
        clip.tabIndex = -1;
        clip.addEventListener('loadedmetadata', () => {
          this.area.style.aspectRatio = `${clip.videoWidth} / ${clip.videoHeight}`;
        });
        this.area.classList.add('framed');
        this.area.prepend(clip);
      }
      const inside = this.getAttribute('inside');
      if (inside) {  // what lies in the box, a picture or the first frame of a clip
        const clip = document.createElement('video');
        Object.assign(clip, { src: `${inside}#t=0.05`, muted: true, preload: 'auto' });
        clip.addEventListener('error', () => {
          const picture = document.createElement('img');
          Object.assign(picture, { src: inside, alt: '' });
          clip.replaceWith(picture);
        });
        clip.setAttribute('aria-hidden', 'true');
        clip.tabIndex = -1;
        this.mark.classList.add('filled');
        this.mark.append(clip);
      }
      const sorted = (from, to) => [
        Math.min(from[0], to[0]), Math.min(from[1], to[1]), Math.max(from[0], to[0]), Math.max(from[1], to[1]),
      ].map((value) => rounded(value, 2));
      this.drag(
        () => {},
        (from, to) => this.show(sorted(from, to)),
        (from, to) => {
          const edges = sorted(from, to);
          if (edges[2] > edges[0] && edges[3] > edges[1]) this.choose(edges);
        },
      );
    }
    show(edges) {
      this.mark.style.display = edges ? 'block' : 'none';
      if (!edges) return;
      const [left, top, right, bottom] = edges.map((value) => 100 * value);
      Object.assign(this.mark.style, {
        left: `${left}%`, top: `${top}%`, width: `${right - left}%`, height: `${bottom - top}%`,
      });
      this.inputs.forEach((input, k) => { input.value = edges[k]; });
    }
    choose(edges) {
      if (!edges) this.inputs.forEach((input) => { input.value = ''; });
      this.show(edges);
      picked(this, edges);
    }
  }

  customElements.define('codi-player', Player);
  customElements.define('codi-span', Span);
  customElements.define('codi-box', Box);
})();
