// A log that stays at its end, unless its reader has scrolled away from it.

export class Follower {
  constructor(log) {
    this.log = log;
    this.follows = true;
    log.addEventListener("scroll", () => {
      this.follows = log.scrollHeight - log.scrollTop - log.clientHeight < 24;
    });
    new ResizeObserver(() => this.keep()).observe(log);
  }

  // To be called when something was added.
  keep() {
    if (this.follows) this.log.scrollTop = this.log.scrollHeight;
  }

  toEnd() {
    this.follows = true;
    this.keep();
  }
}
