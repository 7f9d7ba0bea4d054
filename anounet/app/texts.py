"""Every text of the app in one place, by key. Another language is another dictionary beside ENGLISH.

`t(key, **values)` gives a text, `label(name)` the display name of a class, a defect, a mode or a curve.
"""

from __future__ import annotations

import re

ENGLISH: dict[str, str] = {
    "app.name": "Ano-Unet",
    "page.home": "Home",
    "page.f_net": "f-Net",
    "page.center": "C",
    "page.visualise": "Visualise",
    # --- home ---
    "home.lead": "**Where** is an image abnormal, and **what would it look like if it were normal?** Pick a "
    "defect: the answer is computed while you watch.",
    "home.pick": "A test image of the material “{normal}” with",
    "home.another": "Another piece",
    "home.computing": "Redrawing the image as if it were normal …",
    "home.scale": "Colours are in units of what normal images change: 1 is the level that 99.5 % of the "
    "pixels of normal images stay under, and the colours end at 2. No image is stretched to its own range.",
    "home.what_title": "What is this?",
    "home.what": "A network **F** has learned to tell materials apart, and **C** is the mean of what it sees "
    "in normal images. Ano-Unet lets a small U-Net redraw one image, starting from the image itself, until "
    "F takes the result for a normal one. What had to change for that is the heat map, and what came out is "
    "the image as it should be: no defect was ever shown in training.",
    "home.next_title": "Next steps",
    "home.go_visualise": "Visualise your images",
    "home.about_visualise": "Upload images or pick samples, and compare Ano-Unet with AnoGAN side by side.",
    "home.go_f_net": "Train an f-Net",
    "home.about_f_net": "Choose your data and the normal class, and train the network that judges.",
    "home.go_center": "Compute C",
    "home.about_center": "The centre of normality and its threshold, with the scores of normal and abnormal "
    "images.",
    # --- bundles ---
    "bundle.choose": "Bundle",
    "bundle.f_net": "f-Net of the bundle",
    "bundle.help": "A bundle holds what belongs to one normal class: the f-Net, C, the U-Net to start from, "
    "and AnoGAN.",
    "bundle.none": "There is no bundle of weights here yet. Train an f-Net on the page f-Net, or put one "
    "into the folder `weights/` (or the one that `ANOUNET_WEIGHTS` names).",
    "bundle.unknown": "The link names the bundle “{name}”, which is not here. There: {known}.",
    "bundle.opening": "Opening {name} …",
    "bundle.refused": "The bundle “{name}” can’t be used. {reason} Other bundles can still be chosen.",
    # --- data ---
    "data.set": "Data set",
    "data.help": "“Textures” is embedded. Other sets are folders or ZIP files of classes in the folder that "
    "`ANOUNET_DATA` names, or in `data/`.",
    "data.reading": "Reading the data set …",
    "data.normal": "Normal class",
    "data.normal_help": "What an image should look like. C is made from this class.",
    "data.exclude": "Left out as anomalous",
    "data.exclude_help": "F never sees these classes, so they can show later whether it finds what it does "
    "not know.",
    "data.reference": "Second data set as reference",
    "data.reference_help": "Its classes are added to those that F tells apart; useful where the first has "
    "few classes.",
    "data.no_reference": "None",
    "data.limit": "Images at most",
    "data.limit_help": "Drawn at random from all classes (the article takes 6,000).",
    "data.size": "Size in pixels",
    "data.size_help": "All images are resized to this square (the article: 96).",
    "data.count": "F learns from **{n} images** of {classes} classes; {normal} of the normal class are there "
    "in all.",
    "data.too_few": "F learns to tell classes apart: leave fewer out, or add a second data set as reference.",
    "data.fix_first": "Choose data that F can learn from first.",
    "data.is_normal": "normal",
    "data.is_out": "left out",
    # --- f-Net ---
    "f_net.title": "f-Net",
    "f_net.lead": "F turns an image into 1,280 numbers. Trained to tell the normal class from others, it "
    "puts normal images close together, and anything else away from them.",
    "f_net.data": "1. Data",
    "f_net.net": "2. Network",
    "f_net.tab_load": "Use one that is there",
    "f_net.tab_train": "Train a new one",
    "f_net.go_center": "Next: compute C for it",
    "facts.shipped": "This bundle comes with the program. It is never overwritten.",
    "facts.normal": "Normal class",
    "facts.data": "Data set",
    "facts.excluded": "Left out as anomalous",
    "facts.nothing": "none",
    "facts.images": "Images learned from",
    "facts.start": "Starting weights",
    "facts.net": "Network",
    "facts.net_value": "MobileNetV2, width {width}, α = {alpha}",
    "facts.training": "Training",
    "facts.training_value": "L2-softmax, {epochs} epochs, batch {batch}",
    "facts.accuracy": "Accuracy in the last batch",
    "facts.hash": "Fingerprint",
    "facts.identity": "identity U-Net",
    "facts.has": "The bundle also holds",
    "train.article": "The article’s values",
    "train.article_help": "{epochs} epochs, batch {batch}, learning rate 0.0001, width {width}, α = 5, 6,000 "
    "images.",
    "train.epochs": "Epochs",
    "train.batch": "Batch",
    "train.rate": "Learning rate",
    "train.width": "Width",
    "train.width_help": "MobileNetV2’s width multiplier: 0.5 is faster, 1 sees more.",
    "train.alpha": "α",
    "train.alpha_help": "The norm of F(x). L2-softmax needs 4.3 or more for 10 classes.",
    "train.seed": "Seed",
    "train.start": "Starting weights (optional)",
    "train.start_help": "A PyTorch state dict of MobileNetV2 features for inputs in [−1, 1]. Without a file: "
    "ImageNet weights where they can be downloaded, else the shipped f-Net.",
    "train.no_start": "There are no starting weights of width {width} here: add a file of them, or choose "
    "another width.",
    "train.go": "Train",
    "train.busy": "A job of yours is running: stop it or wait for its end.",
    "train.job": "Training the f-Net “{name}”",
    "train.kept": "Stopped; the last whole epoch is kept.",
    "train.done": "Trained.",
    "train.saved": "{what} The bundle “{name}” holds the f-Net after {epochs} epochs, accuracy {accuracy} "
    "lately.",
    "name.save_as": "Save as",
    "name.help": "The new bundle’s name: small letters, digits, “-”, “_” and “.”. Nothing is ever "
    "overwritten.",
    "name.taken": "There is a bundle “{name}” already: choose another name, nothing is ever overwritten.",
    "name.no_paths": "“{name}” can’t be a bundle’s name: it names a folder of weights, so no slashes.",
    # --- C ---
    "center.title": "C, the centre of normality",
    "center.lead": "C is the mean of F over normal images. An image’s score is its distance from C, and the "
    "threshold is what 99 % of normal images that C has not seen stay under.",
    "center.bundle": "f-Net of the bundle",
    "center.normal_help": "C is computed from this class. Another one than the bundle’s own makes a new "
    "bundle.",
    "center.count": "Normal images",
    "center.count_help": "{share} of them are held back from C and set the threshold.",
    "center.available": "{n} normal images of “{normal}” are there in {data}.",
    "center.name_help": "The bundle that C is saved in; another name copies the f-Net into a new bundle.",
    "center.too_few": "C needs {least} normal images or more, and there are {n}.",
    "center.no_f_net": "The bundle “{name}” has no f-Net: train one first.",
    "center.go": "Compute C",
    "center.job": "Computing C for “{name}”",
    "center.saved": "C is saved in the bundle “{name}”.",
    "center.show": "Show {name}",
    "center.shown": "Scores with the C of “{name}”",
    "center.none": "The bundle “{name}” has no C yet: compute it, and its scores appear here.",
    "center.scoring": "Scoring test images …",
    "center.no_test": "Test images can’t be scored: {reason}",
    "center.groups": "Test images by kind. Each point is an image; the dashed line is the threshold.",
    "center.m_images": "Images in C",
    "center.m_held": "Held back",
    "center.m_threshold": "Threshold",
    "center.m_auroc": "Image AUROC",
    "center.threshold_help": "{share} of the held-back normal images score lower.",
    "center.auroc_help": "How well the score alone tells good test images from abnormal ones: 1 is perfect, "
    "0.5 chance. The threshold was not chosen with these images.",
    "center.go_visualise": "Next: visualise images with it",
    # --- visualise ---
    "visualise.title": "Visualise",
    "visualise.lead": "Where is it abnormal, and what would it look like if it were normal? Ano-Unet and "
    "AnoGAN side by side, on one fixed scale.",
    "visualise.job": "Visualising {n} image(s)",
    "visualise.start": "Start (about {time})",
    "visualise.again": "Run again",
    "visualise.no_bundle": "Choose a bundle that can be used.",
    "visualise.no_center": "The bundle “{name}” has no C yet, so there is nothing to compare with.",
    "visualise.nothing": "Pick a sample, or upload images.",
    "visualise.table": "Scores of all {n} images",
    "visualise.page": "Page",
    "visualise.device": "Computing on {device}",
    "images.source": "Images",
    "images.samples": "Samples",
    "images.upload": "Your own",
    "images.choose": "Choose one or several",
    "images.others": "Other pieces",
    "images.no_samples": "There are no samples for this bundle here. {reason}",
    "images.drop": "PNG, JPEG, WebP, BMP or TIFF",
    "images.limits": "Up to 20 MB and 40 million pixels each. Images are resized to the bundle’s square.",
    "images.remove": "Remove all ({n})",
    "images.too_many": "{name} was left out: {n} images at a time are the most.",
    "images.twice": "{name} shows the same as {other} and was left out.",
    "images.other_size": "This bundle works at {size} px: upload your images again.",
    "settings.mode": "Mode",
    "settings.mode_help": "Fast starts from a small U-Net that redraws any image unchanged. Article is the "
    "original procedure: a fresh, large U-Net for every image.",
    "settings.beta": "β",
    "settings.beta_help": "The weight of L_C against L_R, both taken as means. Too small hides the anomaly, "
    "too large disturbs the background.",
    "settings.steps": "Steps",
    "settings.steps_help": "Updates of the U-Net for each image. Too many fool F without changing what is "
    "seen.",
    "settings.presets": "The article’s values",
    "settings.preset": "β {beta}, {steps} steps",
    "settings.preset_help": "One of the article’s two experiments; switches to the article’s mode.",
    "input.clamped": "{what} lies between {low} and {high}: {value} is used.",
    "view.sigma": "Smoothing of shown maps (pixels)",
    "view.sigma_help": "Gaussian σ, the same for both methods. Downloaded maps are not smoothed.",
    "view.unit": "Scale",
    "view.unit_normal": "Normal limit",
    "view.unit_grey": "Grey levels",
    "view.unit_help": "Normal limit: each method in units of what it changes in normal images. Grey levels: "
    "both methods on one absolute range.",
    "scale.one": "1 = normal limit",
    "scale.normal": "99.5 % of the pixels of normal images stay under 1, for each method.",
    "scale.measured": "{method}’s limit was measured at a smoothing of {sigma} px.",
    "scale.none": "{method} has no limit of its own yet; that of the fast mode is used.",
    "scale.grey": "Grey levels of 255, one range for both methods.",
    "gate.toggle": "Redraw normal images too",
    "gate.help": "As in the article, only images that F’s score calls anomalous are redrawn, unless this is "
    "on.",
    "gate.title": "**Normal, not redrawn: {n}**",
    "gate.why": "Their scores stay under the threshold of {threshold}. Switch on “Redraw normal images too” "
    "to see them.",
    "gate.entry": "normal · {score}",
    "verdict.anomalous": "Anomalous",
    "verdict.normal": "Normal",
    "score.line": "Score {score} = {ratio} × the threshold {threshold}",
    "seconds.ano_unet": "Ano-Unet {n} s",
    "seconds.anogan": "AnoGAN {n} s",
    "panel.original": "Original",
    "panel.normalised": "If it were normal",
    "panel.heat": "Heat map",
    "panel.heat_note": "at most {level} × normal limit",
    "panel.overlay": "Overlay",
    "panel.generated": "AnoGAN: nearest normal",
    "panel.heat_anogan": "AnoGAN: heat map",
    "panel.overlay_anogan": "AnoGAN: overlay",
    "method.ano_unet": "Ano-Unet",
    "method.anogan": "AnoGAN",
    "panel.generated_note": "G(z), found by search",
    "card.more": "Loss curves and downloads",
    "card.ano_unet_losses": "Ano-Unet: L = L_R + β · L_C, β = {beta}",
    "card.anogan_losses": "AnoGAN: search for z, score {score}",
    "table.image": "Image",
    "table.verdict": "Verdict",
    "table.score": "Score",
    "table.ratio": "× threshold",
    "table.ano_unet": "Ano-Unet (s)",
    "table.anogan": "AnoGAN (s)",
    "download.overlay": "Overlay (PNG)",
    "download.normalised": "Normalised (PNG)",
    "download.map": "Raw map (NPY)",
    "download.zip": "All files (ZIP)",
    "anogan.searching": "AnoGAN is searching …",
    "anogan.not_run": "AnoGAN was stopped",
    "anogan.none": "**{name}** has no AnoGAN yet. Ano-Unet works without it; train one to compare the two.",
    "anogan.steps": "Training steps",
    "anogan.steps_help": "Updates of the generator. 1,500 take several minutes on a CPU.",
    "anogan.train": "Train AnoGAN",
    "anogan.job": "Training AnoGAN for “{name}”",
    # --- jobs ---
    "job.queued": "Waiting: {n} before this one, first “{first}” ({share} done)",
    "job.count": "{done} of {total}",
    "job.left": "about {time} left",
    "job.stop": "Stop",
    "job.stopping": "Stopping …",
    "job.stopped": "Stopped before it was finished.",
    "job.reading": "Reading images",
    "job.loading": "Opening the f-Net",
    "job.starting_weights": "Getting starting weights",
    "job.training_f_net": "Training",
    "job.training_anogan": "Training",
    "job.features": "Features of normal images",
    "job.scale": "Measuring the scale of heat maps on normal images",
    "job.ano_unet": "Ano-Unet",
    "job.anogan": "AnoGAN, search for z",
    "time.seconds": "{n} s",
    "time.minutes": "{n} min",
    "time.hours": "{n} h",
    "chart.step": "Step",
    "chart.score": "Score",
    "chart.images": "Images",
    "chart.threshold": "threshold {value}",
    "chart.held_back": "normal, held back",
    "chart.abnormal": "abnormal test images",
    # --- alternative texts ---
    "alt.original": "Original image {name}",
    "alt.normalised": "{name}, redrawn as if it were normal",
    "alt.heat": "Heat map of {name}: the strongest change is {level} times the normal limit",
    "alt.overlay": "Heat map over the grey image {name}",
    "alt.generated": "AnoGAN’s nearest normal image to {name}",
    "alt.heat_anogan": "AnoGAN’s heat map of {name}: the strongest change is {level} times the normal limit",
    "alt.overlay_anogan": "AnoGAN’s heat map over the grey image {name}",
    "alt.sample": "Picture of the work so far",
    "alt.curve": "Curve of {name} over the steps so far",
    "alt.losses": "Losses over the steps",
    "alt.histogram": "Histogram of scores with the threshold",
    "alt.groups": "Scores of test images by kind, with the threshold",
    # --- errors ---
    "error.memory": "There was not enough memory for this: use fewer or smaller images, or a smaller batch.",
    "error.disk": "A file could not be read or written ({reason}): check the disk and the folder’s "
    "permissions.",
    "error.unexpected": "Something unexpected went wrong ({kind}); the terminal has the details. Try again.",
}

ENGLISH_LABELS: dict[str, str] = {
    "fast": "Fast",
    "article": "Article",
    "anogan": "AnoGAN",
    "good": "No defect",
    "band": "Dark band",
    "blob": "Bright blob",
    "scratch": "Scratch",
    "missing": "Missing texture",
    "orientation": "Wrong direction",
    "frequency": "Magnified patch",
    "stain": "Stain",
    "foreign": "Foreign patch",
    "textures": "Textures (embedded)",
    "L": "L",
    "L_R": "L_R",
    "L_C": "L_C",
    "residual": "Residual",
    "discrimination": "Discrimination",
    "loss": "Loss",
    "accuracy": "Accuracy",
    "generator": "Generator loss",
    "discriminator": "Discriminator loss",
}

LANGUAGES = {"en": (ENGLISH, ENGLISH_LABELS)}
DEFAULT_LANGUAGE = "en"


def t(key: str, **values: object) -> str:
    """The text of a key, with its values filled in; an unknown key is a fault of the program."""
    return LANGUAGES[DEFAULT_LANGUAGE][0][key].format(**values)


def label(name: str) -> str:
    """What to call a class, a defect, a mode or a curve; names that are not known are tidied up."""
    labels = LANGUAGES[DEFAULT_LANGUAGE][1]
    base, dash, number = name.rpartition("-")
    if dash and number.isdigit() and base:
        return f"{label(base)} {number}"
    return labels.get(name, name.replace("_", " ").capitalize() if name.islower() else name)


def plain(text: str) -> str:
    """A text from outside (a file's name), so that Markdown shows it as it is."""
    return re.sub(r"([\\`*_\[\]$~<>:])", r"\\\1", text)
