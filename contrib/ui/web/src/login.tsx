import { useEffect, useState } from "preact/hooks";
import { call, logIn } from "./api";
import { Mark } from "./icons";
import { Button } from "./ui";

interface Methods { token: boolean; oidc: boolean }

/** keyOfLink takes the one-time key out of the address, so that it stays in no history. */
function keyOfLink(): string {
  const key = new URLSearchParams(location.hash.slice(1)).get("key") ?? "";
  if (key) history.replaceState(null, "", location.pathname + location.search);
  return key;
}

const key = keyOfLink();

/** problems are what the server says by a word when logging in elsewhere did not work. */
const problems: Record<string, string> = {
  issuer: "Your organization's log-in page cannot be reached. Try again, or use a token.",
  busy: "Too many people are logging in. Try again in a few minutes.",
  old: "That log-in was begun in another browser or too long ago. Try again.",
  denied: "Your organization did not let you log in.",
  unknown: "You are logged in at your organization, but this cluster does not know you. Its administrator finds the reason in km's log.",
};

export function LogIn() {
  const [methods, setMethods] = useState<Methods | null>(null);
  const [error, setError] = useState(problems[new URLSearchParams(location.search).get("problem") ?? ""] ?? "");
  const [busy, setBusy] = useState(!!key);
  const [token, setToken] = useState("");
  const [lost, setLost] = useState(false); // the key, on its way
  const useKey = async () => {
    setBusy(true);
    setError("");
    setLost(false);
    try { await logIn("key", key); } catch (problem: any) {
      setError(problem.message);
      setLost(!problem.code);
    }
    setBusy(false);
  };
  useEffect(() => {
    call<Methods>("/auth/methods").then(setMethods, (e) => setError(e.message));
    if (key) void useKey();
  }, []);
  if (busy && key) return <main class="alone"><p class="muted">Logging in…</p></main>;
  return (
    <main class="alone">
      <div class="login">
        <svg class="logo" viewBox="0 0 32 32" aria-hidden="true"><rect width="32" height="32" rx="7" /><path d="M16 6l8.7 5v10L16 26l-8.7-5V11zM16 16l8.7-5M16 16v10M16 16l-8.7-5" /></svg>
        <h1>Log in to the cluster</h1>
        <p class="muted">You can do here what your Kubernetes user may do, and no more.</p>
        {error && <p class="problem" role="alert"><Mark tone="bad" />{error}{lost && <Button onClick={useKey}>Try again</Button>}</p>}
        {methods?.oidc && <><a class="button primary wide" href={`/auth/oidc?to=${encodeURIComponent(location.pathname + location.search)}`}>Log in with your organization</a><p class="or">or</p></>}
        <form onSubmit={async (e) => {
          e.preventDefault();
          setBusy(true);
          setError("");
          try { await logIn("token", token); } catch (problem: any) { setError(problem.message); }
          setBusy(false);
        }}>
          <label class="field"><span>Token</span>
            <input type="password" autocomplete="off" spellcheck={false} value={token} onInput={(e) => setToken(e.currentTarget.value)} required /></label>
          <Button type="submit" kind={methods?.oidc ? "plain" : "primary"} disabled={busy || !token}>{busy ? "Checking…" : "Log in"}</Button>
        </form>
        <p class="hint">A token of a service account: <code>km kubectl create token NAME</code>. As the administrator: <code>km ui</code> on the control plane's machine prints a link.</p>
      </div>
    </main>
  );
}
