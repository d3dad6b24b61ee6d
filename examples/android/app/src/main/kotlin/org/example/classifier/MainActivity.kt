package org.example.classifier

import android.app.Activity
import android.graphics.BitmapFactory
import android.os.Bundle
import android.widget.TextView

/** Shows what is in `image.png` among the assets. */
class MainActivity : Activity() {
    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        val text = TextView(this)
        setContentView(text)
        val bitmap = assets.open("image.png").use { BitmapFactory.decodeStream(it) }
        // A few milliseconds; an app that classifies what a camera sees does it in a thread of its own.
        val answer = Classifier(this).use { it.classify(bitmap) }
        text.text = answer.take(5).joinToString("\n") { (name, probability) -> "%s %.3f".format(name, probability) }
    }
}
