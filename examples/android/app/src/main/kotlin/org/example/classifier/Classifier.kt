package org.example.classifier

import android.content.Context
import android.graphics.Bitmap
import java.io.FileInputStream
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.channels.FileChannel
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
    private val input = interpreter.getInputTensor(0) // (1, height, width, 3)
    private val output = interpreter.getOutputTensor(0) // (1, classes)
    private val height = input.shape()[1]
    private val width = input.shape()[2]
    private val pixels = IntArray(width * height)
    private val images = buffer(input.numBytes())
    private val answer = buffer(output.numBytes())

    /** Class names with their probabilities, the most probable first. Call it from one thread at a time. */
    fun classify(bitmap: Bitmap): List<Pair<String, Float>> {
        val scaled = Bitmap.createScaledBitmap(bitmap, width, height, true)
        scaled.getPixels(pixels, 0, width, 0, 0, width, height)
        images.rewind()
        for (pixel in pixels) {
            put(pixel shr 16 and 255) // red
            put(pixel shr 8 and 255) // green
            put(pixel and 255) // blue
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
