// Bytes that are read and written by ranges, at once: what wasm works on. Each has size(), read(at, bytes) and, to be
// written to, write(at, bytes) and truncate(n); read and write give how many bytes there were.

/** Small reads are taken from so many bytes that are read together. */
const WINDOW_BYTES = 1 << 20;

/** So many such windows are kept: codes, scales and others lie far apart, and are read in turn. */
const N_WINDOWS = 4;

/** A part of an output that is held in memory while it is written. */
const PART_BYTES = 4 << 20;

/** A Blob or File, read in slices. Only in workers. */
export class BlobStorage {
  #blob;
  #reader = new FileReaderSync();
  /** The one that was used last comes first. */
  #windows = [];

  constructor(blob) {
    this.#blob = blob;
  }

  size() {
    return this.#blob.size;
  }

  read(at, bytes) {
    const end = at + bytes.length;
    if (end > this.#blob.size) return Math.max(0, this.#blob.size - at);
    if (bytes.length >= WINDOW_BYTES) {
      bytes.set(this.#load(at, end));
      return bytes.length;
    }
    const { start, held } = this.#window(at, end);
    bytes.set(held.subarray(at - start, end - start));
    return bytes.length;
  }

  #window(at, end) {
    const found = this.#windows.findIndex(({ start, held }) => at >= start && end <= start + held.length);
    const [window] =
      found >= 0
        ? this.#windows.splice(found, 1)
        : [{ start: at, held: this.#load(at, Math.min(at + WINDOW_BYTES, this.#blob.size)) }];
    this.#windows.unshift(window);
    this.#windows.length = Math.min(this.#windows.length, N_WINDOWS);
    return window;
  }

  #load(at, end) {
    try {
      return new Uint8Array(this.#reader.readAsArrayBuffer(this.#blob.slice(at, end)));
    } catch (error) {
      throw new Error(
        error.name === 'NotReadableError'
          ? 'the browser can no longer read it: it was changed, moved or removed since it was chosen'
          : error.message,
      );
    }
  }
}

/** A typed array's bytes. */
export class BytesStorage {
  #bytes;

  constructor(array) {
    this.#bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
  }

  size() {
    return this.#bytes.length;
  }

  read(at, bytes) {
    const from = this.#bytes.subarray(at, at + bytes.length);
    bytes.set(from);
    return from.length;
  }

  write(at, bytes) {
    this.#bytes.set(bytes, at);
    return bytes.length;
  }
}

/** A file of the browser's own for this site, on disk. Only in workers. */
export class PrivateFile {
  #file;
  #access;

  /** Makes the file `name`; fails where the browser has no such files. */
  static async create(name) {
    const root = await navigator.storage.getDirectory();
    const made = new PrivateFile();
    made.#file = await root.getFileHandle(name, { create: true });
    made.#access = await made.#file.createSyncAccessHandle();
    return made;
  }

  size() {
    return this.#access.getSize();
  }

  read(at, bytes) {
    return this.#access.read(bytes, { at });
  }

  write(at, bytes) {
    return this.#access.write(bytes, { at });
  }

  truncate(nBytes) {
    this.#access.truncate(nBytes);
  }

  /** The file, complete. */
  async finish() {
    this.#access.flush();
    this.#access.close();
    return this.#file.getFile();
  }
}

/**
 * What stands in for a file of the browser's own: parts that become Blobs when they are full, which the browser may keep on
 * disk. Only in workers.
 */
export class PartsStorage {
  /** Of each part its Blob, or its bytes and how many of them were written. */
  #parts = [];
  #size = 0;

  size() {
    return this.#size;
  }

  truncate(nBytes) {
    this.#size = nBytes;
    const lengthOf = (part) => Math.min(PART_BYTES, nBytes - part * PART_BYTES);
    this.#parts = Array.from({ length: Math.ceil(nBytes / PART_BYTES) }, (_, part) => ({
      length: lengthOf(part),
      nWritten: 0,
    }));
  }

  read(at, bytes) {
    return this.#forEach(at, bytes, (part, from, piece) => {
      if (part.blob) piece.set(bytesOf(part.blob.slice(from, from + piece.length)));
      else if (part.bytes) piece.set(part.bytes.subarray(from, from + piece.length));
      else piece.fill(0);
    });
  }

  write(at, bytes) {
    return this.#forEach(at, bytes, (part, from, piece) => {
      part.bytes ??= part.blob ? bytesOf(part.blob) : new Uint8Array(part.length);
      part.bytes.set(piece, from);
      part.nWritten += piece.length;
      if (part.nWritten < part.length) return;
      part.blob = new Blob([part.bytes]);
      part.bytes = undefined;
    });
  }

  /** The file, complete. */
  async finish() {
    return new Blob(this.#parts.map((part) => part.blob ?? part.bytes ?? new Uint8Array(part.length)));
  }

  #forEach(at, bytes, take) {
    const end = Math.min(at + bytes.length, this.#size);
    for (let from = at; from < end; ) {
      const part = this.#parts[Math.floor(from / PART_BYTES)];
      const within = from % PART_BYTES;
      const length = Math.min(part.length - within, end - from);
      take(part, within, bytes.subarray(from - at, from - at + length));
      from += length;
    }
    return Math.max(0, end - at);
  }
}

function bytesOf(blob) {
  return new Uint8Array(new FileReaderSync().readAsArrayBuffer(blob));
}
