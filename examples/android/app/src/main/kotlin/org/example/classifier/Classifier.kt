package org.example.classifier

import android.content.Context
import android.graphics.Bitmap
import java.io.FileInputStream
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.channels.FileChannel
import kotlin.math.abs
import kotlin.math.roundToInt
import org.tensorflow.lite.DataType
import org.tensorflow.lite.Interpreter

class Classifier(context: Context, threads: Int = 2) : AutoCloseable {
    private val labels = context.assets.open("labels.txt").bufferedReader().use { it.readLines() }

    private val model: ByteBuffer = context.assets.openFd("net.tflite").use { asset ->
        FileInputStream(asset.fileDescriptor).use { stream ->
            stream.channel.map(FileChannel.MapMode.READ_ONLY, asset.startOffset, asset.declaredLength)
        }
    }

    // XNNPACK is the delegate that runs the graph in one piece on the CPU.
    private val interpreter =
        Interpreter(model, Interpreter.Options().setNumThreads(threads).setUseXNNPACK(true))
    private val input = interpreter.getInputTensor(0) // (1, height, width, 3), or 1 for gray
    private val output = interpreter.getOutputTensor(0) // (1, classes)
    private val height = input.shape()[1]
    private val width = input.shape()[2]
    private val gray = input.shape()[3] == 1
    private val images = buffer(input.numBytes())
    private val answer = buffer(output.numBytes())

    /** Class names with their probabilities, the most probable first. Call it from one thread at a time. */
    fun classify(bitmap: Bitmap): List<Pair<String, Float>> {
        images.rewind()
        for ((red, green, blue) in resize(bitmap)) {
            if (gray) {
                put((0.299f * red + 0.587f * green + 0.114f * blue).roundToInt())
            } else {
                put(red.roundToInt())
                put(green.roundToInt())
                put(blue.roundToInt())
            }
        }
        images.rewind()
        answer.rewind()
        interpreter.run(images, answer)
        answer.rewind()
        val outputs = List(output.shape()[1]) { probability() }
        // One sigmoid gives the probability of the second of two classes.
        val probabilities = if (outputs.size == 1) listOf(1 - outputs[0], outputs[0]) else outputs
        return labels.zip(probabilities).sortedByDescending { it.second }
    }

    /** Resizes as in training: bilinear with antialiasing, which `createScaledBitmap` lacks. One array per pixel. */
    private fun resize(bitmap: Bitmap): List<FloatArray> {
        val columns = weights(bitmap.width, width)
        val rows = weights(bitmap.height, height)
        val resized = List(height * width) { FloatArray(3) }
        val line = IntArray(bitmap.width)
        for (y in 0 until bitmap.height) {
            bitmap.getPixels(line, 0, line.size, 0, y, line.size, 1)
            for ((x, column) in columns.withIndex()) {
                val color = FloatArray(3)
                for ((step, weight) in column.values.withIndex()) {
                    val pixel = line[column.first + step]
                    for (channel in 0..2) color[channel] += weight * (pixel shr 16 - 8 * channel and 255)
                }
                for ((place, row) in rows.withIndex()) {
                    val weight = row.values.getOrNull(y - row.first) ?: continue
                    for (channel in 0..2) resized[place * width + x][channel] += weight * color[channel]
                }
            }
        }
        return resized
    }

    /** The weights of the old positions from `first` on for one new position. */
    private class Weights(val first: Int, val values: FloatArray)

    private fun weights(from: Int, to: Int): List<Weights> {
        val scale = from.toFloat() / to
        val reach = maxOf(scale, 1f)
        return List(to) { place ->
            val center = (place + 0.5f) * scale
            val first = maxOf(0, (center - reach + 0.5f).toInt())
            val last = minOf(from, (center + reach + 0.5f).toInt())
            val values = FloatArray(last - first) { maxOf(0f, 1 - abs(first + it + 0.5f - center) / reach) }
            val total = values.sum()
            Weights(first, FloatArray(values.size) { values[it] / total })
        }
    }

    private fun put(value: Int) {
        if (input.dataType() == DataType.FLOAT32) {
            images.putFloat(value.toFloat())
        } else {
            val quantization = input.quantizationParams()
            val integer = (value / quantization.scale).roundToInt() + quantization.zeroPoint
            val range = if (input.dataType() == DataType.INT8) -128..127 else 0..255
            images.put(integer.coerceIn(range).toByte())
        }
    }

    private fun probability(): Float {
        if (output.dataType() == DataType.FLOAT32) return answer.getFloat()
        val quantization = output.quantizationParams()
        val integer = answer.get().toInt()
        val unsigned = if (output.dataType() == DataType.UINT8) integer and 255 else integer
        return quantization.scale * (unsigned - quantization.zeroPoint)
    }

    private fun buffer(bytes: Int) = ByteBuffer.allocateDirect(bytes).order(ByteOrder.nativeOrder())

    override fun close() = interpreter.close()
}
