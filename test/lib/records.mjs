// What the workload appends: records whose bytes follow from (writer, number, length) alone, so that whoever knows the
// three can tell whether a byte of the log is right.

const tableBytes = 1 << 20;
export const recordBytesMin = 16;
const table = makeTable();

function makeTable() {
  const bytes = Buffer.allocUnsafe(tableBytes);
  let state = 0x9e3779b9;
  for (let at = 0; at < tableBytes; at += 4) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    bytes.writeInt32LE(state | 0, at);
  }
  return bytes;
}

/**
 * @param {number} writer @param {number} number @param {number} length at least {@link recordBytesMin}
 * @returns {Buffer}
 */
export function makeRecord(writer, number, length) {
  const record = Buffer.allocUnsafe(length);
  record.writeUInt32LE(writer, 0);
  record.writeUInt32LE(number, 4);
  record.writeUInt32LE(length, 8);
  let at = 12;
  let from = Math.imul(number * 31 + writer, 2654435761) >>> 12;
  while (at < length) {
    const step = Math.min(length - at, tableBytes - from);
    table.copy(record, at, from, from + step);
    at += step;
    from = 0;
  }
  return record;
}
