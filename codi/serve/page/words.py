"""Every word that the page shows, in English and German, in one table.

A sentence may have gaps, `{number}`, which are the same in both languages. What the service and the model say
of a request stays as they say it, in English, and so do the examples, because the model reads English.
"""

from typing import Any

LANGUAGES = {"en": "English", "de": "Deutsch"}
DEFAULT = "en"

# key: (English, German)
TABLE: dict[str, tuple[str, str]] = {
    # The frame
    "title": (
        "codi: text, pictures, sounds and clips, together",
        "codi: Text, Bild, Ton und Film, gemeinsam",
    ),
    "tagline": (
        "Any mix of text, pictures, sounds and clips, from any mix of them, made together",
        "Texte, Bilder, Töne und Filme aus Texten, Bildern, Tönen und Filmen, gemeinsam erzeugt",
    ),
    "skip": ("Skip to the results", "Zu den Ergebnissen springen"),
    "language": ("Language", "Sprache"),
    "theme": ("Light or dark", "Hell oder dunkel"),
    "section.ask": ("What to make", "Was entstehen soll"),
    "section.results": ("Results", "Ergebnisse"),
    "section.history": ("History", "Verlauf"),
    # Kinds of media
    "kind.text": ("Text", "Text"),
    "kind.image": ("Picture", "Bild"),
    "kind.audio": ("Sound", "Ton"),
    "kind.video": ("Clip", "Film"),
    "kind.drawing": ("Drawing", "Zeichnung"),
    "kind.words": ("Words", "Wörter"),
    # Prompts
    "prompt": ("Describe it", "Beschreibung"),
    "prompt.hint": ("a green star bounces quickly in the snow", "a green star bounces quickly in the snow"),
    "prompt.info": (
        "Leave it empty if a picture, a sound or a clip says it all.",
        "Kann leer bleiben, wenn ein Bild, ein Ton oder ein Film alles sagt.",
    ),
    "examples": ("Try one of these", "Zum Ausprobieren"),
    "world": ("What does the small model understand?", "Was versteht das kleine Modell?"),
    "world.text": (
        "The model inside the package knows a small world: one shape of one colour that moves in one place. "
        "It reads these English words and passes over all others:",
        "Das mitgelieferte Modell kennt eine kleine Welt: eine Form in einer Farbe, die sich an einem Ort "
        "bewegt. Es liest diese englischen Wörter und übergeht alle anderen:",
    ),
    "world.colours": ("Colours", "Farben"),
    "world.shapes": ("Shapes", "Formen"),
    "world.motions": ("Motions", "Bewegungen"),
    "world.tempi": ("Tempo", "Tempo"),
    "world.places": ("Places", "Orte"),
    "add": ("Add a prompt:", "Weitere Vorgabe:"),
    "prompt.number": ("Prompt {number}: {kind}", "Vorgabe {number}: {kind}"),
    "prompt.words": ("Words", "Wörter"),
    "prompt.weight": ("Weight", "Gewicht"),
    "prompt.weight.info": ("Counts where prompts disagree.", "Zählt, wo Vorgaben einander widersprechen."),
    "prompt.negative": ("Steer away from it", "Davon wegführen"),
    "prompt.remove": ("Remove {number}", "{number} entfernen"),
    "negative": ("Steer away from", "Wegführen von"),
    "negative.hint": ("at night", "at night"),
    "drop.image": (
        "Drop a picture, or click to choose one",
        "Bild hierher ziehen oder zum Auswählen klicken",
    ),
    "drop.short": ("Drop or choose", "Bild wählen"),
    # Outputs and the buttons
    "outputs": ("Make", "Erzeugen"),
    "outputs.info": ("Everything ticked is made together.", "Alles Angekreuzte entsteht gemeinsam."),
    "make": ("Make it", "Los"),
    "cancel": ("Cancel", "Abbrechen"),
    # Model, samples, seeds
    "model": ("Model", "Modell"),
    "group.samples": ("Variations and seeds", "Varianten und Startwerte"),
    "samples": ("Variations", "Varianten"),
    "samples.info": ("Each has a seed of its own.", "Jede hat einen eigenen Startwert."),
    "candidates": ("Candidates", "Kandidaten"),
    "candidates.info": (
        "So many are drawn for each, and the best is kept.",
        "So viele werden je Variante gezogen; die beste bleibt.",
    ),
    "seed": ("Seed", "Startwert"),
    "random": ("Draw a new seed each time", "Jedes Mal einen neuen Startwert ziehen"),
    # Settings
    "group.settings": ("Steps, guidance and sizes", "Schritte, Führung und Größen"),
    "steps": ("Steps", "Schritte"),
    "own": ("the model's own", "wie das Modell"),
    "settings.info": (
        "Grey numbers are the model's own; they count where a field is empty.",
        "Graue Zahlen sind die des Modells; sie gelten, wo ein Feld leer ist.",
    ),
    "guidance_scale": ("Guidance", "Führung"),
    "guidance_scale.info": ("How closely it follows the prompts.", "Wie genau es den Vorgaben folgt."),
    "sync_guidance_scale": ("Guidance by the others", "Führung durch die anderen"),
    "sync_guidance_scale.info": (
        "How closely it follows the other outputs.",
        "Wie genau es den anderen Ergebnissen folgt.",
    ),
    "start_offset": ("Start", "Beginn"),
    "start_offset.info": ("Schedules after which it starts.", "Durchläufe, nach denen es beginnt."),
    "num_inference_steps": ("Steps of its own", "Eigene Schritte"),
    "num_inference_steps.info": ("For models put together of others.", "Für zusammengesetzte Modelle."),
    "guider": ("Guider", "Art der Führung"),
    "size.height": ("Height in pixels", "Höhe in Pixeln"),
    "size.width": ("Width in pixels", "Breite in Pixeln"),
    "size.num_frames": ("Frames", "Einzelbilder"),
    "size.fps": ("Frames per second", "Bilder pro Sekunde"),
    "size.audio_length_in_s": ("Length in seconds", "Länge in Sekunden"),
    "sync": (
        "Inputs that run in time keep time with the outputs",
        "Zeitliche Vorgaben geben den Takt der Ergebnisse an",
    ),
    "lengths": ("Clip and sound", "Film und Ton"),
    "lengths.agree": ("last equally long", "gleich lang"),
    "lengths.free": ("each its own length", "jeder in eigener Länge"),
    # Start, keep, keyframes
    "group.edits": ("Start from something, keep a part", "Von etwas ausgehen, einen Teil behalten"),
    "edits.info": (
        "An output can start from a medium of its own kind, and a part of it can stay as it is.",
        "Ein Ergebnis kann von einem Medium seiner Art ausgehen, und ein Teil davon kann bleiben.",
    ),
    "start": ("Start from: {kind}", "Ausgehen von: {kind}"),
    "strength": ("How far it may go from the start", "Wie weit es sich entfernen darf"),
    "keep": ("Keep", "Behalten"),
    "keep.nothing": ("nothing exactly", "nichts genau"),
    "keep.part": ("a part", "einen Teil"),
    "keep.everything": ("all of it", "alles"),
    "keep.canvas": ("all of it, and it goes on around it", "alles, und es geht ringsum weiter"),
    "canvas": ("Where it lies on the result: {kind}", "Wo es auf dem Ergebnis liegt: {kind}"),
    "selected": ("The part that I mark", "Der markierte Teil"),
    "selected.remake": ("is made anew", "wird neu gemacht"),
    "selected.stay": ("stays", "bleibt"),
    "paint": ("Paint over the part", "Den Teil übermalen"),
    "span": ("Interval of: {kind}", "Abschnitt von: {kind}"),
    "box": ("Part of the picture of: {kind}", "Bildausschnitt von: {kind}"),
    "span.help": (
        "Drag over the timeline or type the seconds.",
        "Über die Zeitachse ziehen oder die Sekunden eintippen.",
    ),
    "span.from": ("From second", "Von Sekunde"),
    "span.to": ("To second", "Bis Sekunde"),
    "span.clear": ("Clear", "Leeren"),
    "resample_steps": ("Repeats of each step where a part stays", "Wiederholungen je Schritt beim Behalten"),
    "frame.0": ("First frame", "Erstes Einzelbild"),
    "frame.1": ("Last frame", "Letztes Einzelbild"),
    "frame.2": ("Frame at a second", "Einzelbild zu einer Sekunde"),
    "frame.second": ("Second of that frame", "Sekunde dieses Bildes"),
    "frames": ("Keyframes", "Schlüsselbilder"),
    # What goes on
    "group.continue": ("Go on: longer than the model makes", "Weiterführen: länger als das Modell"),
    "continue.info": (
        "A clip, a sound or both in step go on, window by window; what is ticked above does not count then. "
        "Without a description it follows the words that the file was made from.",
        "Ein Film, ein Ton oder beide im Takt gehen weiter, Abschnitt für Abschnitt; was oben angekreuzt "
        "ist, zählt dann nicht. Ohne Beschreibung gelten die Wörter, aus denen die Datei entstand.",
    ),
    "continue.source": ("What goes on: {kind}", "Was weitergeht: {kind}"),
    "continue.end": ("What comes at the end: {kind}", "Was am Ende kommt: {kind}"),
    "continue.sound": ("A clip goes on with its sound", "Ein Film geht mit seinem Ton weiter"),
    "continue.sound.info": ("Untick it for a silent clip.", "Bei stummen Filmen abwählen."),
    "continue.way": ("Where to", "Wohin"),
    "continue.forwards": ("forwards", "vorwärts"),
    "continue.backwards": ("backwards", "rückwärts"),
    "continue.both": ("to both sides", "nach beiden Seiten"),
    "continue.loop": ("in a loop", "in einer Schleife"),
    "continue.gap": ("up to another one", "bis zu einem anderen"),
    "continue.seconds": ("Seconds of the result", "Sekunden des Ergebnisses"),
    "continue.seconds.info": ("With what is given.", "Samt dem, was gegeben ist."),
    "continue.overlap": ("Overlap of windows in seconds", "Überlappung in Sekunden"),
    "continue.overlap.info": ("Half a window if left empty.", "Ein halber Abschnitt, wenn leer."),
    # Regions
    "group.regions": ("Prompts for a place or a moment", "Vorgaben für einen Ort oder Moment"),
    "regions.info": (
        "Words that count in a box of pictures and clips, in an interval of clips and sounds, or both.",
        "Wörter, die in einem Feld von Bildern und Filmen, in einem Abschnitt von Filmen und Tönen oder in "
        "beidem gelten.",
    ),
    "region": ("Region {number}", "Bereich {number}"),
    "region.text": ("Words of region {number}", "Wörter für Bereich {number}"),
    "region.box": ("Box of region {number}", "Feld für Bereich {number}"),
    "region.span": ("Seconds of region {number}", "Sekunden für Bereich {number}"),
    "region.soft": ("Soft edge", "Weicher Rand"),
    "box.help": (
        "Drag a box or type its edges, 0 to 1.",
        "Ein Feld aufziehen oder die Ränder eintippen, 0 bis 1.",
    ),
    "box.left": ("Left", "Links"),
    "box.top": ("Top", "Oben"),
    "box.right": ("Right", "Rechts"),
    "box.bottom": ("Bottom", "Unten"),
    # Control
    "group.control": ("Control", "Steuerung"),
    "control.info": (
        "Steers outputs beside their prompts, if the model has a trained branch for it.",
        "Lenkt Ergebnisse neben ihren Vorgaben, wenn das Modell einen Zweig dafür gelernt hat.",
    ),
    "control.none": ("The chosen model has no such branch.", "Das gewählte Modell hat keinen solchen Zweig."),
    "control.number": ("Control {number}", "Steuerung {number}"),
    "control.kind": ("Kind", "Art"),
    "control.beats": ("Beats", "Schläge"),
    "control.layout": ("Layout", "Anordnung"),
    "control.sketch": ("Sketch", "Skizze"),
    "control.melody": ("Melody", "Melodie"),
    "control.loudness": ("Loudness", "Lautstärke"),
    "control.off": ("none", "keine"),
    "control.output": ("Steers", "Lenkt"),
    "control.all": ("all that can follow", "alles, was folgen kann"),
    "control.value": ("Value", "Wert"),
    "control.value.hint": (
        "beats: 0.3,0.9   melody: 0:A4,0.5:C5,1:0",
        "Schläge: 0.3,0.9   Melodie: 0:A4,0.5:C5,1:0",
    ),
    "control.file": (
        "or a file: a drawing, a recording, a clip",
        "oder eine Datei: Zeichnung, Aufnahme, Film",
    ),
    # While it runs
    "state.queued": ("Waiting. {position} in front.", "Wartet. {position} davor."),
    "state.queued.next": ("Waiting. It is the next.", "Wartet. Es ist als Nächstes dran."),
    "state.running": ("Being made.", "Entsteht."),
    "state.done": ("Done in {seconds} s.", "Fertig nach {seconds} s."),
    "state.failed": ("It could not be made.", "Es konnte nicht erzeugt werden."),
    "state.cancelled": ("Cancelled.", "Abgebrochen."),
    "tag.queued": ("waiting", "wartet"),
    "tag.running": ("being made", "entsteht"),
    "tag.done": ("done", "fertig"),
    "tag.failed": ("failed", "gescheitert"),
    "tag.cancelled": ("cancelled", "abgebrochen"),
    "progress": ("{kind}: step {step} of {steps}", "{kind}: Schritt {step} von {steps}"),
    "progress.waits": ("{kind}: waits for its start", "{kind}: wartet auf seinen Beginn"),
    "preview": ("Preview", "Vorschau"),
    "preview.alt": ("Preview: {kind}", "Vorschau: {kind}"),
    "preview.none": ("comes into view", "nimmt Gestalt an"),
    # Results
    "empty.title": ("Nothing here yet", "Noch nichts hier"),
    "empty.text": (
        "Describe something, tick what should be made of it, and press the button. A picture, a sound and a "
        "clip made together show and sound the same thing.",
        "Etwas beschreiben, ankreuzen, was daraus entstehen soll, und auf den Knopf drücken. Gemeinsam "
        "erzeugte Bilder, Töne und Filme zeigen und klingen nach demselben.",
    ),
    "sample": ("Variation {number}", "Variante {number}"),
    "sample.seed": ("seed {seed}", "Startwert {seed}"),
    "made.alt": ("{kind} made from: {prompt}", "{kind}, erzeugt aus: {prompt}"),
    "waveform": ("Waveform of: {kind}", "Wellenform von: {kind}"),
    "spectrogram": ("Spectrogram of: {kind}", "Spektrogramm von: {kind}"),
    "with_sound": ("with its sound", "mit seinem Ton"),
    "download": ("Download", "Herunterladen"),
    "download.one": ("Download {name}", "{name} herunterladen"),
    "use": ("Use as input", "Als Vorgabe"),
    "use.one": ("Use as input: {name}", "Als Vorgabe nutzen: {name}"),
    "from": ("Start from it", "Davon ausgehen"),
    "from.one": ("Start from it: {name}", "Davon ausgehen: {name}"),
    "on": ("Go on", "Weiterführen"),
    "on.one": ("Go on from it: {name}", "Weiterführen: {name}"),
    "again": ("Make again", "Noch einmal"),
    "again.info": ("the same settings and seed", "gleiche Einstellungen, gleicher Startwert"),
    "fresh": ("New seed", "Neuer Startwert"),
    "edit": ("Change and make", "Ändern"),
    "notes": ("Notes", "Hinweise"),
    "record": ("How it was made (full record)", "Wie es entstand (vollständige Angaben)"),
    "request": ("What was asked", "Was verlangt war"),
    # History
    "history.empty": (
        "What you make is listed here, and is still here after a restart.",
        "Hier steht, was erzeugt wurde, auch nach einem Neustart.",
    ),
    "history.open": ("Show: {prompt}", "Zeigen: {prompt}"),
    "history.delete": ("Delete: {prompt}", "Löschen: {prompt}"),
    "history.sure": ("Delete?", "Löschen?"),
    "history.more": ("Show more", "Mehr zeigen"),
    "history.without": ("without words", "ohne Wörter"),
    "history.continue": ("{kind}: goes on to {seconds} s", "{kind}: weitergeführt auf {seconds} s"),
    "used": ("Taken up as an input.", "Als Vorgabe übernommen."),
    "filled": (
        "The fields are filled as they were, without files.",
        "Die Felder sind wie damals gefüllt, ohne Dateien.",
    ),
    # Errors of the page itself
    "error": ("That does not work yet", "So geht es noch nicht"),
    "error.no_output": (
        "Nothing is ticked: tick at least one of the things to make.",
        "Nichts ist angekreuzt: mindestens ein Ergebnis ankreuzen.",
    ),
    "error.no_prompt": (
        "There is no prompt: describe what to make, or add a picture, a sound or a clip.",
        "Es fehlt eine Vorgabe: beschreiben, was entstehen soll, oder Bild, Ton oder Film dazugeben.",
    ),
    "error.empty_prompt": (
        "Prompt {number} is empty: fill it or remove it.",
        "Vorgabe {number} ist leer: ausfüllen oder entfernen.",
    ),
    "error.empty_drawing": (
        "The drawing of prompt {number} is empty: paint something or remove it.",
        "Die Zeichnung von Vorgabe {number} ist leer: etwas malen oder sie entfernen.",
    ),
    "error.not_made": (
        "There is something to start from ({kind}) that is not ticked: tick it, or remove the start.",
        "Ein Ausgangsmedium ({kind}) ist nicht angekreuzt: ankreuzen oder das Medium entfernen.",
    ),
    "error.nothing_selected": (
        "No part of the start is marked ({kind}): paint or select it, or keep nothing.",
        "Am Ausgangsmedium ist kein Teil markiert ({kind}): markieren oder nichts behalten.",
    ),
    "error.no_canvas": (
        "It is not said where the start lies ({kind}): drag a box on the result.",
        "Es fehlt, wo das Ausgangsmedium liegt ({kind}): ein Feld auf dem Ergebnis aufziehen.",
    ),
    "error.no_seconds": (
        "How long the result is to be is missing: type the seconds under what goes on.",
        "Es fehlt, wie lang das Ergebnis werden soll: beim Weiterführen die Sekunden eintippen.",
    ),
    "error.no_end": (
        "What comes at the end is missing: add it, or choose another way to go on.",
        "Es fehlt, was am Ende kommt: dazugeben oder anders weiterführen.",
    ),
    "error.all_selected": (
        "The interval is all of it, so nothing would stay: select less.",
        "Der Abschnitt ist das Ganze, so dass nichts bliebe: weniger markieren.",
    ),
    "error.no_length": (
        "It is not known how long the result will be: type a length under the settings.",
        "Die Länge des Ergebnisses ist unbekannt: bei den Einstellungen eine Länge angeben.",
    ),
    "error.no_mask": (
        "The painted mask cannot be read: paint it again.",
        "Die Maske ist unlesbar: neu malen.",
    ),
    "error.no_second": (
        "The frame at a second has no second: type it, or remove the picture.",
        "Zum Einzelbild fehlt die Sekunde: eintippen oder das Bild entfernen.",
    ),
    "error.region_nowhere": (
        "Region {number} has words and no place: draw a box or type seconds.",
        "Bereich {number} hat Wörter, aber keinen Ort: ein Feld aufziehen oder Sekunden eintippen.",
    ),
    "error.empty_interval": (
        "An interval ends before it begins: expected a later end.",
        "Ein Abschnitt endet vor seinem Anfang: das Ende muss später liegen.",
    ),
    "error.empty_box": (
        "A box has no inside: its right and bottom edges lie beyond the left and top ones.",
        "Ein Feld hat kein Inneres: rechts muss größer als links sein, unten größer als oben.",
    ),
    "error.empty_control": (
        "Control {number} has no value: type one, add a file, or choose none.",
        "Steuerung {number} hat keinen Wert: eintippen, Datei dazugeben oder keine wählen.",
    ),
    "error.no_number": ("{value} is no number here.", "{value} ist hier keine Zahl."),
    "error.full": (
        "The queue is full. Try again in {seconds} s.",
        "Die Warteschlange ist voll. In {seconds} s noch einmal versuchen.",
    ),
    "error.gone": ("That result is no longer there.", "Dieses Ergebnis gibt es nicht mehr."),
    "error.slots": (
        "There is no room for a further prompt: remove one.",
        "Kein Platz für weitere Vorgaben: eine entfernen.",
    ),
    "error.busy": (
        "The server is busy and could not check this. Try again in a moment.",
        "Der Server ist beschäftigt und konnte dies nicht prüfen. Gleich noch einmal versuchen.",
    ),
    "error.server": (
        "Something went wrong on the server. Its log says what.",
        "Auf dem Server ist etwas schiefgegangen. Näheres steht in seinem Protokoll.",
    ),
}


class Words:
    """The words of the page in one language; an instance is called with a key.

    Args:
        language: one of `LANGUAGES`.
    """

    def __init__(self, language: str = DEFAULT) -> None:
        self.language = language
        self._column = list(LANGUAGES).index(language)

    def __call__(self, key: str, **gaps: Any) -> str:
        """Return the words of a key, its gaps filled."""
        return TABLE[key][self._column].format(**gaps)

    def kind(self, name: str) -> str:
        """Return what a kind of medium is called; one that the table has not, by its own name."""
        return self(f"kind.{name}") if f"kind.{name}" in TABLE else name

    def control(self, name: str) -> str:
        """Return what a kind of control is called."""
        return self(f"control.{name}") if f"control.{name}" in TABLE else name
