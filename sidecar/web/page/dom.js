/* Building and updating the page. Given: plain values. Hands on: elements.
   Never: makes markup of a text (textContent only), or replaces an element that can be updated in place. */
import { DASH, clean, isNumber, known, percent } from "./format.js";

export const $ = (id) => document.getElementById(id);
export const body = (id) => $(id).tBodies[0];

export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") node.textContent = clean(value);
    else if (name === "width") node.style.width = `${Math.max(0, Math.min(100, value))}%`;
    else if (name === "left") node.style.left = `${Math.max(0, Math.min(100, value))}%`;
    else if (name === "flex") node.style.flexGrow = value;
    else if (name === "color") node.style.background = value;
    else if (name === "value" || name.startsWith("data-")) node.setAttribute(name, value);  // Not shown, and asked for again as it is.
    else if (known(value)) node.setAttribute(name, clean(value));
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/* Make the children of an element these. What is there already is changed in place, so that the keyboard focus, a
   selected text and the scroll position survive an update, and a bar's width can move instead of jumping. */
export function put(id, nodes) { patchChildren(typeof id === "string" ? $(id) : id, nodes); }

function patchChildren(parent, fresh) {
  const old = [...parent.childNodes];
  fresh.forEach((node, i) => (old[i] ? patch(old[i], node) : parent.append(node)));
  old.slice(fresh.length).forEach((node) => node.remove());
}
function patch(old, fresh) {
  if (old.isEqualNode(fresh)) return;
  if (old.nodeName !== fresh.nodeName) return void old.replaceWith(fresh);
  if (old.nodeType === Node.TEXT_NODE) return void (old.data = fresh.data);
  for (const { name } of [...old.attributes]) if (name !== "style" && !fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (name !== "style" && old.getAttribute(name) !== value) old.setAttribute(name, value);
  if (old.style.cssText !== fresh.style.cssText) old.style.cssText = fresh.style.cssText;  // The policy forbids the attribute, not this.
  patchChildren(old, [...fresh.childNodes]);
}

export function say(id, text) { const node = $(id), t = clean(text, 600); if (node.textContent !== t) node.textContent = t; }
export function show(id, yes) { if ($(id).hidden === yes) $(id).hidden = !yes; }

export function tile(title, value, note = "", unit = "", tone = "") {
  const none = value === DASH;
  return el("div", { class: "tile" }, el("div", { class: "t", text: title, title }),
    el("div", { class: `v ${none ? "none" : ""} ${tone ? "tone " + tone : ""}` }, clean(value), unit && !none ? el("small", { text: unit }) : null),
    known(note) ? el("div", { class: "n", text: note }) : null);
}
export function fact(title, value, tone = "") { return el("div", {}, el("dt", { text: title }), el("dd", { class: tone ? "tone " + tone : "", text: value })); }
export function pill(state, tone, text = state, title = "") { return el("span", { class: `pill ${tone}`, text, title }); }
export function meter(share, text, tone = "", target = null) {
  const bar = el("b", {}, el("i", { width: isNumber(share) ? share * 100 : 0 }));
  if (isNumber(target)) bar.append(el("u", { left: target * 100, title: `target ${percent(target * 100)}` }));
  return el("div", { class: `meter ${tone}` }, bar, el("span", { text }));
}
export function cells(...values) { return values.map((v) => (v instanceof Node ? el("td", { class: "fill" }, v) : el("td", { text: v }))); }
export function emptyRow(columns, text) { return el("tr", { class: "empty" }, el("td", { colspan: columns, text })); }
