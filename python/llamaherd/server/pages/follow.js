// A log that stays scrolled to its end unless the user has scrolled up.

export class Follower {
  constructor(log) {
    this.log = log;
    this.follows = true;
    log.addEventListener("scroll", () => {
      this.follows = log.scrollHeight - log.scrollTop - log.clientHeight < 24;
    });
    new ResizeObserver(() => this.keep()).observe(log);
  }

  // Call after content was added.
  keep() {
    if (this.follows) this.log.scrollTop = this.log.scrollHeight;
  }

  toEnd() {
    this.follows = true;
    this.keep();
  }
}
