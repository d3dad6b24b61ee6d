package org.example.classifier

import android.app.Activity
import android.graphics.BitmapFactory
import android.os.Bundle
import android.widget.TextView

/** Shows the classes of the asset `image.png`. */
class MainActivity : Activity() {
    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        val text = TextView(this)
        setContentView(text)
        val bitmap = assets.open("image.png").use { BitmapFactory.decodeStream(it) }
        // Takes a few milliseconds. To classify camera frames, use a background thread.
        val answer = Classifier(this).use { it.classify(bitmap) }
        text.text = answer.take(5).joinToString("\n") { (name, probability) -> "%s %.3f".format(name, probability) }
    }
}
