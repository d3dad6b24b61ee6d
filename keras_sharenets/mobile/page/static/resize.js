// Resizes images as the networks are trained: bilinear with antialiasing, like Pillow, with 8 bits after each axis.

// For each output position, the first input position that it reads, and the weights from there on.
function filters(from, to) {
  const scale = from / to;
  const reach = Math.max(scale, 1);
  return Array.from({ length: to }, (_, place) => {
    const center = (place + 0.5) * scale;
    const first = Math.max(0, Math.floor(center - reach + 0.5));
    const count = Math.min(from, Math.floor(center + reach + 0.5)) - first;
    const weights = Float64Array.from({ length: count }, (_, step) => Math.max(0, 1 - Math.abs(first + step + 0.5 - center) / reach));
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    return { first, weights: weights.map((weight) => weight / total) };
  });
}

// Resizes each row of `from` values to `to` values, and transposes the result.
function resizeRows(values, from, to) {
  const rows = values.length / from;
  const result = new Uint8Array(rows * to);
  const table = filters(from, to);
  for (let row = 0; row < rows; row++) {
    for (let place = 0; place < to; place++) {
      const { first, weights } = table[place];
      let sum = 0.5; // rounds
      for (let index = 0; index < weights.length; index++) sum += weights[index] * values[row * from + first + index];
      result[place * rows + row] = sum;
    }
  }
  return result;
}

// The color values (height, width, channels) of an `ImageData`, resized: integers from 0 to 255. One channel is gray.
export function resize({ data, width, height }, [newHeight, newWidth, channels]) {
  const result = new Uint8Array(newHeight * newWidth * channels);
  for (let channel = 0; channel < channels; channel++) {
    const plane = new Uint8Array(height * width);
    for (let place = 0, at = 0; place < plane.length; place++, at += 4) {
      const gray = channels === 1;
      plane[place] = gray ? (19595 * data[at] + 38470 * data[at + 1] + 7471 * data[at + 2] + 32768) >> 16 : data[at + channel];
    }
    const resized = resizeRows(resizeRows(plane, width, newWidth), height, newHeight);
    resized.forEach((value, place) => (result[place * channels + channel] = value));
  }
  return result;
}
