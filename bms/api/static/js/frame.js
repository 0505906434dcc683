// The frame around the pages: header, navigation, connection banner, and the routes (`#/nodes/<id>` and so on).

import { announce, h, icon, mark, put, say, stateBadge } from "./dom.js";
import { Feed } from "./feed.js";
import { clock, moment } from "./format.js";
import { ROUTES, SECTIONS } from "./routes.js";
import { themeButton } from "./theme.js";

export class Frame {
  constructor(model, { onLeave }) {
    this.model = model;
    this.onLeave = onLeave;
    this.feed = new Feed(model, { onRefused: (reason) => onLeave(`You were signed out: ${reason || "the token is no longer good"}.`) });
    this._leavePage = null;
    this._wasLive = null;
    this._build();
    this._ends = [
      model.on("connection", () => this._connection()),
      model.on("nodes", () => this._counts()),
      model.on("health", () => this._health()),
    ];
    this._onHash = () => this._go();
    window.addEventListener("hashchange", this._onHash);
    this._clock = setInterval(() => this._connection(), 1000);
  }

  start() {
    this.feed.start();
    this._go(true);
    this._connection();
  }

  close() {
    clearInterval(this._clock);
    window.removeEventListener("hashchange", this._onHash);
    for (const end of this._ends) end();
    this._leavePage?.();
    this.feed.close();
  }

  _build() {
    const { me } = this.model;
    this.pill = h("span", { class: "pill" }, "Connecting");
    this.links = new Map();
    this.healthMark = h("span", { class: "nav-health", hidden: true });
    this.failedCount = h("span", { class: "count bad", hidden: true });
    const section = ([title, names]) => h("section", null, h("h2", null, title), h("ul", null, names.map((name) => h("li", null, this._navLink(name)))));
    this.nav = h("nav", { class: "side", id: "side", "aria-label": "Sections" }, SECTIONS.map(section));
    this.menu = h("button", { type: "button", class: "icon quiet menu-button", "aria-expanded": "false", "aria-controls": "side", "aria-label": "Sections", on: { click: () => this._openMenu(!this.nav.classList.contains("open")) } }, icon("menu"));
    this.banner = h("div", { class: "banner", role: "region", "aria-label": "Connection", hidden: true });
    this.bannerText = h("span");
    this.bannerTry = h("button", { type: "button", on: { click: () => this.feed.live.retry() } }, "Try now");
    this.banner.append(this.bannerText, h("span", { class: "space" }), this.bannerTry);
    this.main = h("div");
    const scopes = (me.scopes ?? []).join(", ");
    this.element = h("div", { class: "frame" },
      h("header", { class: "top" },
        this.menu,
        h("a", { class: "brand", href: "#/", "aria-label": "bms: overview" }, h("img", { src: "/static/icon.svg", alt: "" }), h("span", null, "bms")),
        h("div", { class: "where" }, h("span", { class: "where-node" }, me.node_name ?? ""), h("span", { class: "where-mesh" }, me.mesh_name ? `in mesh ${me.mesh_name}` : "")),
        h("span", { class: "space" }),
        this.pill,
        themeButton(),
        h("button", { type: "button", class: "quiet icon", "aria-label": "Sign out", title: `Signed in${me.name ? ` as ${me.name}` : ""} (${scopes}) until ${moment(me.expires_at)}. Sign out`, on: { click: () => this.onLeave() } }, icon("out"))),
      this.nav,
      h("main", { class: "content", id: "content", tabindex: "-1" }, this.banner, this.main));
    document.getElementById("skip").onclick = (event) => {
      event.preventDefault();
      document.getElementById("content").focus();
    };
  }

  _navLink(name) {
    const route = ROUTES[name];
    const isOpen = this.model.allows(route.scope);
    const link = h("a", { href: `#/${route.path}`, class: isOpen ? null : "locked" }, icon(isOpen ? name : "lock"), route.title,
      isOpen ? null : h("span", { class: "unseen" }, "(not allowed to this token)"), name === "nodes" ? this.failedCount : name === "overview" ? this.healthMark : null);
    this.links.set(name, link);
    return link;
  }

  _openMenu(on) {
    mark(this.nav, "open", on);
    this.menu.setAttribute("aria-expanded", String(on));
  }

  _go(isFirst = false) {
    if (location.hash.startsWith("#login=")) return;
    const [, path = "", rest = ""] = /^#\/([^/?]*)\/?(.*)$/.exec(location.hash) ?? [];
    const name = Object.keys(ROUTES).find((one) => ROUTES[one].path === path) ?? "overview";
    const route = ROUTES[name];
    this._leavePage?.();
    this._leavePage = null;
    this._openMenu(false);
    for (const [one, link] of this.links) {
      if (one === name) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    const page = h("div", { class: `page page-${name}` });
    put(this.main, page);
    if (!this.model.allows(route.scope)) page.append(lacking(route));
    else this._leavePage = route.open(page, { model: this.model, feed: this.feed, rest: decodeURIComponent(rest) }) ?? null;
    const title = page.querySelector("h1")?.textContent ?? route.title;
    document.title = `${title} · ${this.model.me.node_name ?? "bms"}`;
    if (!isFirst) {
      window.scrollTo(0, 0);
      document.getElementById("content").focus({ preventScroll: true });
      announce(title);
    }
  }

  _counts() {
    const { failed } = this.model.countStates();
    this.failedCount.hidden = !failed;
    say(this.failedCount, failed);
    this.failedCount.setAttribute("aria-label", `${failed} failed`);
  }

  /** Health that is not well is seen from every page. */
  _health() {
    const status = this.model.health?.status ?? "ok";
    this.healthMark.hidden = status === "ok";
    put(this.healthMark, stateBadge(status));
  }

  _connection() {
    const { live } = this.feed;
    const isLive = live.state === "live", isDown = live.state === "down";
    this.pill.className = `pill ${isLive ? "ok" : isDown ? "warn" : ""}`;
    const isSilent = live.types.length === 0; // the token allows no kind of event
    say(this.pill, isLive ? "Live" : isDown ? "Disconnected" : isSilent ? "Not live" : "Connecting");
    mark(this.element, "stale", isDown);
    this.banner.hidden = !isDown;
    if (isDown) {
      this.model.changed("clock"); // ages grow, though nothing is heard
      const wait = Math.max(0, Math.ceil((live.retryAt - Date.now()) / 1000));
      const next = live.isTrying ? "Trying now." : `Next attempt in ${wait} s.`;
      const shown = this.model.readAt ? ` What is shown is from ${clock(this.model.readAt)}.` : "";
      put(this.bannerText, h("strong", null, `Not connected since ${clock(live.since / 1000)}`), `: ${live.reason}.${shown} ${next}`);
    }
    if (this._wasLive !== null && this._wasLive !== isLive) announce(isLive ? "Connected again" : `Not connected: ${live.reason}`, !isLive);
    if (isLive || isDown) this._wasLive = isLive;
  }
}

/** What stands in place of a page that the token does not allow. */
function lacking(route) {
  return h("div", { class: "card empty" }, h("h1", null, route.title),
    h("p", null, "This token does not allow it: it lacks ", h("code", null, route.scope), "."),
    h("p", null, "Issue one that has it, with ", h("code", null, `bms token issue --scope ${route.scope}`), ", and sign in with that."));
}
