// The start: who is here (a token, a one-time link, or nobody), then the frame with its pages. `#login=<code>` is taken out
// of the address at once, so that it stays in no history.

import { get, keepToken, onTokenRefused, post, token } from "./api.js";
import { put } from "./dom.js";
import { Frame } from "./frame.js";
import { loginForm } from "./login.js";
import { Model } from "./model.js";

const app = document.getElementById("app");
let frame = null;

function showLogin(problem = "") {
  frame?.close();
  frame = null;
  document.title = "Sign in · bms";
  put(app, loginForm({ problem, onToken: enter }));
  app.querySelector("input")?.focus();
}

async function enter(value) {
  keepToken(value);
  const me = await get("/whoami");
  frame?.close();
  const model = new Model();
  model.me = me;
  frame = new Frame(model, { onLeave: leave });
  put(app, frame.element);
  frame.start();
}

function leave(problem = "") {
  keepToken(null);
  showLogin(problem);
}

/** The code of a one-time link, taken out of the address; null if there is none. */
function takeCode() {
  const found = /^#login=(.+)$/.exec(location.hash);
  if (!found) return null;
  history.replaceState(null, "", `${location.pathname}#/`);
  return decodeURIComponent(found[1]);
}

async function begin() {
  const code = takeCode();
  if (code !== null) {
    try {
      const answer = await post("/login", { code }, { anonymous: true });
      return await enter(answer.token);
    } catch (error) {
      return showLogin(`This link does not sign in: ${error.message} A link is good once, for a minute.`);
    }
  }
  if (!token()) return showLogin();
  try {
    return await enter(token());
  } catch (error) {
    if (error.status === 401) return showLogin("The token is no longer good.");
    return showLogin(`${error.message} Your token is kept: try again.`);
  }
}

onTokenRefused(() => { if (frame) leave("The token is no longer good: it has ended or was revoked."); });
window.addEventListener("hashchange", () => { if (location.hash.startsWith("#login=")) begin(); });
begin();
