"""Chromium, headless, visits pages in a frame as wide as a desk's or a phone's screen and tells what is wrong."""

import http.server
import json
import subprocess
import threading
from functools import partial
from pathlib import Path

WIDTHS = (1280, 390)

# Runs in the browser. A page is wrong where it is wider than its screen, or an image has not come.
VISIT = """
<!doctype html><link rel="icon" href="data:,"><body><script>
const frame = document.createElement("iframe");
document.body.append(frame);
const scrolls = e => ["auto", "scroll"].includes(frame.contentWindow.getComputedStyle(e).overflowX);
const inside = e => { for (let p = e; p; p = p.parentElement) if (scrolls(p)) return true; return false; };
async function visit(page, width) {
  frame.style = `width: ${width}px; height: 900px; border: 0`;
  await new Promise(done => { frame.onload = done; frame.src = page; });
  const root = frame.contentDocument, faults = [];
  await Promise.all([...root.images].map(image => { image.loading = "eager"; return image.decode().catch(() => 0); }));
  if (root.documentElement.scrollWidth > width + 1) faults.push(`${root.documentElement.scrollWidth} px wide`);
  for (const image of root.images) if (!image.naturalWidth) faults.push("missing image " + image.src);
  for (const e of root.querySelectorAll("article pre, article table, article img, article code, article math"))
    if (e.getBoundingClientRect().right > width + 1 && !inside(e))
      faults.push("beyond the edge: " + e.outerHTML.slice(0, 80));
  return faults.map(fault => `${page} at ${width} px: ${fault}`);
}
(async () => {
  const {pages, widths} = await (await fetch("/pages.json")).json();
  let faults = [];
  for (const page of pages) for (const width of widths) faults = faults.concat(await visit(page, width));
  await fetch("/faults", {method: "POST", body: JSON.stringify(faults)});
})();
</script>
"""


class _Server(http.server.SimpleHTTPRequestHandler):
    def __init__(self, *args, pages, faults, done, **kwargs):
        self.pages, self.faults, self.done = pages, faults, done
        super().__init__(*args, **kwargs)

    def log_message(self, *args):
        pass

    def do_GET(self):
        answers = {"/visit.html": VISIT, "/pages.json": json.dumps({"pages": self.pages, "widths": WIDTHS})}
        if self.path not in answers:
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Type", "text/html" if self.path.endswith("html") else "application/json")
        self.end_headers()
        self.wfile.write(answers[self.path].encode())
        return None

    def do_POST(self):
        self.faults.extend(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()
        self.done.set()


def visit(chromium: str, folder: Path, profile: Path, seconds: float = 400) -> list[str]:
    """The faults of all pages in `folder`, at every width, and whatever the browser's console says."""
    faults, done = [], threading.Event()
    pages = sorted(f"/{path.relative_to(folder)}" for path in folder.rglob("*.html"))
    handler = partial(_Server, directory=str(folder), pages=pages, faults=faults, done=done)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
        command += ["--no-first-run", "--disable-extensions", f"--user-data-dir={profile}", "--window-size=1400,1000"]
        command += ["--remote-debugging-port=0", f"http://127.0.0.1:{server.server_port}/visit.html"]
        with (profile / "log").open("w+") as log:
            browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)
            try:
                finished = done.wait(seconds)
            finally:
                browser.terminate()
                browser.wait(30)
                server.shutdown()
            log.seek(0)
            faults += [line.strip() for line in log if ":CONSOLE" in line]
    assert finished, "the browser did not visit all pages in time"
    return faults
