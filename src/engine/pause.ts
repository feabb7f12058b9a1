/** A wait that can be cut short. There is one at a time. */
export class Pause {
  #wake = () => {};

  wait(milliseconds: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, milliseconds);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  /** Ends the wait of now, if there is one. */
  wake(): void {
    this.#wake();
  }
}
