// Search without a server: a page that was opened from disk may not start a Worker, so its script runs in a hidden
// frame that speaks the same messages. Over http the browser's own Worker is used.
(function () {
  "use strict"
  if (location.protocol !== "file:") return

  class FrameWorker extends EventTarget {
    constructor(url) {
      super()
      this.onmessage = null
      this.onerror = null
      this.waiting = []
      const frame = document.createElement("iframe")
      frame.hidden = true
      frame.title = "search"
      document.body.appendChild(frame)
      const inner = frame.contentWindow
      inner.importScripts = (...urls) =>
        urls.reduce((before, next) => before.then(() => load(inner.document, next)), Promise.resolve())
      // What the script says to its page: `postMessage` with one argument.
      inner.postMessage = (data) => this.tell(new MessageEvent("message", { data }))
      inner.addEventListener("error", (event) => this.tell(new ErrorEvent("error", { message: event.message })))
      this.frame = frame
      this.ready = load(inner.document, url)
    }

    tell(event) {
      this.dispatchEvent(event)
      const handler = this["on" + event.type]
      if (handler) handler.call(this, event)
    }

    postMessage(data) {
      this.ready.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })))
    }

    terminate() {
      this.frame.remove()
    }
  }

  function load(target, url) {
    return new Promise((resolve, reject) => {
      const script = target.createElement("script")
      script.src = new URL(url, location.href).href
      script.onload = resolve
      script.onerror = reject
      target.head.appendChild(script)
    })
  }

  window.Worker = FrameWorker
})()
