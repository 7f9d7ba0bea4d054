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
    "page.own": "Your own images",
    # --- home ---
    "home.lead": "**Where** is an image abnormal, and **what would it look like if it were normal?** Pick a "
    "defect: the answer is computed while you watch.",
    "home.pick": "A test image of the material “{normal}” with",
    "home.another": "Another piece",
    "home.computing": "Redrawing the image as if it were normal …",
    "home.scale": "Colours are in units of normal images: 1 is the level that 99.5 % of their pixels stay "
    "under, and the colours end at 2. No image is stretched to its own range. The lines go around what lies "
    "above the level of 99.9 %.",
    "home.what_title": "What is this?",
    "home.what": "A network **F** has learned to tell materials apart, and **C** is what it sees in normal "
    "images. Ano-Unet lets a small U-Net **G** redraw one image until F takes the result for a normal one. "
    "What had to change for that is the heat map, and what came out is the image as it should be: no defect "
    "was ever shown in training.",
    "home.instant": "In **instant** mode, G was trained beforehand, on normal images with foreign patches "
    "pasted in, and answers in a single pass: about a hundredth of a second to a tenth. C is then not one "
    "point but many, one for each kind of normal patch. **Fast** and **article** mode optimise G anew for "
    "every image, as the article does.",
    "home.next_title": "Next steps",
    "home.go_visualise": "Visualise your images",
    "home.about_visualise": "Upload images or pick samples, and compare Ano-Unet with AnoGAN side by side.",
    "home.go_own": "Use your own images",
    "home.about_own": "Hand in normal images of your product: a few minutes later defects are found. No "
    "network F is trained.",
    "home.go_f_net": "Train an f-Net",
    "home.about_f_net": "Choose your data and the normal class, and train the network that judges.",
    "home.go_center": "Compute C",
    "home.about_center": "What is normal, for the whole image and for every patch, with thresholds; and the "
    "training of instant mode.",
    # --- bundles ---
    "bundle.choose": "Bundle",
    "bundle.f_net": "f-Net of the bundle",
    "bundle.help": "A bundle holds what belongs to one normal class: the f-Net, both kinds of C, the small "
    "U-Nets, and AnoGAN.",
    "bundle.none": "There is no bundle of weights here yet. Train an f-Net on the page f-Net, or put one "
    "into the folder `weights/` (or the one that `ANOUNET_WEIGHTS` names).",
    "bundle.unknown": "The link names the bundle “{name}”, which is not here. There: {known}.",
    "bundle.opening": "Opening {name} …",
    "bundle.refused": "The bundle “{name}” can’t be used. {reason} Other bundles can still be chosen.",
    # --- data ---
    "data.set": "Data set",
    "data.help": "“Textures” is embedded. Other sets are folders or ZIP files of classes in the folder that "
    "`ANOUNET_DATA` names, or in `data/`.",
    "data.own": "Images of “{name}”",
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
    "facts.local": "local centres",
    "facts.identity": "identity U-Net",
    "facts.instant": "instant U-Net",
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
    "center.lead": "C says what is normal. The article has one C for the whole image: the mean of F. Local "
    "centres say it for every patch. Thresholds come from normal images that C has not seen.",
    "center.bundle": "f-Net of the bundle",
    "center.normal_help": "C is computed from this class. Another one than the bundle’s own makes a new "
    "bundle.",
    "center.kind": "What to show",
    "center.available": "{n} normal images of “{normal}” are there in {data}. {used} of them are used, and "
    "{share} of those are held back from C and set the thresholds. Both kinds of C are computed.",
    "center.name_help": "The bundle that C is saved in; another name copies the f-Net into a new bundle.",
    "center.too_few": "C needs {least} normal images or more, and there are {n}.",
    "center.no_f_net": "The bundle “{name}” has no f-Net: train one first.",
    "center.go": "Compute C",
    "center.job": "Computing C for “{name}”",
    "center.saved": "Both kinds of C are saved in the bundle “{name}”, from {n} normal images.",
    "center.skipped": "{n} files could not be read and were left out:",
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
    # --- local centres ---
    "local.none": "The bundle “{name}” has no local centres yet: compute C, and they appear here.",
    "local.shown": "Local centres of “{name}”",
    "local.what": "F’s inner layers describe each small patch of an image. Normal patches fall into kinds, "
    "and each kind has a centre and a spread. A patch’s distance d from the nearest centre is in standard "
    "deviations: a kind that varies a lot may vary more. Beyond τ a patch counts as abnormal.",
    "local.m_centers": "Centres K",
    "local.m_images": "Images in the centres",
    "local.m_tau": "τ",
    "local.tau_help": "{share} of the patches of held-back normal images lie nearer.",
    "local.layers": "Layers of F (weight)",
    "local.features": "Features of a patch",
    "local.quantile": "τ is the quantile",
    "local.metric": "Spread",
    "local.skipped": "{n} files could not be read and were left out: {names}",
    "local.projection": "Patches in the plane of the two directions along which normal ones vary most. A "
    "line goes from an abnormal patch to where G moves it. Whether a patch is abnormal is decided in all "
    "directions, not in these two alone.",
    "local.image": "Test image",
    "local.projecting": "Looking at patches …",
    "local.moved": "{before} of this image’s {n} patches lie beyond τ; {after} after G has redrawn it.",
    "local.not_moved": "{before} of this image’s {n} patches lie beyond τ. The bundle has no instant U-Net "
    "yet that could move them.",
    "local.no_images": "Patches can’t be shown: {reason}",
    "local.held_back": "Distances d of the patches of held-back normal images; the colours’ middle is τ = "
    "{tau}.",
    "local.at_most": "d at most {d}",
    # --- instant ---
    "instant.what": "**Instant mode** needs a small U-Net G, trained once: it sees normal images with "
    "foreign patches pasted in and learns to redraw what is foreign as normal, judged by F and the local "
    "centres. No defect is shown to it. Afterwards an image is answered in a single pass.",
    "instant.no_local": "The bundle “{name}” has no local centres yet: compute C first.",
    "instant.shipped": "The shipped bundle has its instant U-Net already, and is never overwritten: compute "
    "C under another name first.",
    "instant.settings": "Settings of the training",
    "instant.depth": "A U-Net of {depth} levels does not fit images of {side} px: choose fewer levels.",
    "instant.there": "The bundle “{name}” has an instant U-Net already. A new training replaces it.",
    "instant.goes_on": "A training was cut off: it continues at step {step} of {total}.",
    "instant.other": "A training with other settings was cut off at step {step}: with these it starts anew.",
    "instant.go": "Train instant mode",
    "instant.continue": "Continue at step {step}",
    "instant.about": "about {time}",
    "instant.job": "Training instant mode for “{name}”",
    "instant.kept": "Stopped: what was saved at step {step} of {total} is in use, and the training can "
    "continue from there.",
    "instant.done": "Instant mode of “{name}” is ready, after {steps} steps.",
    "instant.go_on": "Continue the training",
    "instant.pasted": "Pasted",
    "instant.redrawn": "Redrawn",
    "instant.curves": "Curves of the training",
    # --- own images ---
    "own.title": "Your own images",
    "own.lead": "Hand in images of what is normal. The general f-Net that comes with the program judges "
    "them, so no network F has to be trained: after a minute or two defects can be found.",
    "own.how": "**How it goes**\n\n1. Hand in 20 to 500 images without defects, taken alike: the same kind "
    "of part, distance and light.\n2. Both kinds of C are computed, and **fast** mode works: about a second "
    "an image.\n3. If you like, train **instant** mode once, and every further image is answered at once.",
    "own.size": "Size in pixels",
    "own.pixels": "{n} px",
    "own.size_help": "All images are brought to this square. Small defects need a larger one; everything "
    "takes longer with it: four times as long at 192 as at 96.",
    "own.drop": "Normal images, or one ZIP of them",
    "own.limits": "PNG, JPEG, WebP, BMP, TIFF or ZIP up to 20 MB each, {n} images at most. They are kept on "
    "this server with the bundle, at the chosen size.",
    "own.reading": "Reading your images …",
    "own.left_out": "{n} left out:",
    "own.count": "**{n} normal images**",
    "own.too_many": "{n} images are the most: the others were left out.",
    "own.empty_zip": "{name} holds no images: pack PNG, JPEG, WebP, BMP or TIFF files.",
    "own.bad_entry": "{inside} in {name} is damaged or encrypted and was left out.",
    "own.bad_zip": "{name} is not a ZIP file that can be read: pack it anew.",
    "own.name": "Name of the bundle",
    "own.nothing": "Hand in normal images first.",
    "own.no_general": "The general f-Net (the bundle “{name}”) is not here, so own images can’t be prepared: "
    "put it back into the folder of weights.",
    "own.go": "Prepare",
    "own.job": "Preparing “{name}”",
    "own.try": "Visualise images with it now (fast mode)",
    "own.then": "Next: instant mode",
    # --- visualise ---
    "visualise.title": "Visualise",
    "visualise.lead": "Where is it abnormal, and what would it look like if it were normal?",
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
    "settings.mode_help": "Instant redraws an image in a single pass of a small U-Net that was trained once. "
    "Fast optimises a small U-Net for each image, from one that redraws any image unchanged. Article is the "
    "original procedure: a fresh, large U-Net for every image.",
    "settings.no_instant": "This bundle has no instant mode yet: a training of some minutes adds it.",
    "settings.no_local": "This bundle has no local centres yet; instant mode and most maps need them.",
    "settings.make_instant": "Add what is missing",
    "settings.refine": "Refining steps",
    "settings.refine_help": "0: the answer of a single pass. More: G goes on learning for this image alone, "
    "shown while it runs.",
    "settings.center": "C",
    "settings.center_help": "Global: the article’s, one C for the whole image. Local: a centre for every "
    "kind of patch; only what is abnormal is redrawn.",
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
    "view.map": "Map",
    "view.map_help": "All are computed at once. d is how far a patch lies from normal ones, in standard "
    "deviations; gain: how much G lowered it; feature change: how far G moved the patch. Combined is the "
    "distance × √abs(x − y): the one knows what is abnormal, the other where to the pixel. AnoGAN has "
    "abs(x − y) alone.",
    "view.threshold": "Outline above",
    "view.threshold_help": "The share of the pixels of held-back normal images that lie below the outline.",
    "view.sigma": "Smoothing",
    "view.sigma_usual": "As measured",
    "view.sigma_px": "{n} px",
    "view.sigma_help": "Gaussian σ, the same for both methods. “As measured” is the one of the scale.",
    "view.unit": "Scale",
    "view.unit_normal": "Normal limit",
    "view.unit_grey": "Grey levels",
    "view.unit_help": "Normal limit: each method in units of what it changes in normal images. Grey levels: "
    "both methods on one absolute range.",
    "scale.one": "1 = normal limit",
    "scale.normal": "99.5 % of the pixels of normal images stay under 1, for each method.",
    "scale.measured": "{method}’s limit was measured at a smoothing of {sigma} px.",
    "scale.none": "The normal limit of {method} was not measured yet; a rough value is used.",
    "scale.line_limit": "The lines go around what lies above the level of 99.9 %.",
    "scale.line_scale": "The lines go around what lies above 1.",
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
    "panel.generated_note": "G(z), found by search",
    "card.more": "Loss curves and downloads",
    "card.no_steps": "A single pass, no steps: {values}",
    "refine.pending": "refining …",
    "regions.some": "**Regions above the outline’s level: {n}**, in pixels of the {side} × {side} image",
    "regions.none": "{name}: no region above the outline’s level.",
    "regions.number": "No.",
    "regions.place": "Centre x, y",
    "regions.box": "Size w × h",
    "regions.area": "Area",
    "regions.score": "Peak / level",
    "card.ano_unet_losses": "Ano-Unet: L = L_R + β · L_C, β = {beta}",
    "card.anogan_losses": "AnoGAN: search for z, score {score}",
    "table.image": "Image",
    "table.verdict": "Verdict",
    "table.score": "Score",
    "table.ratio": "× threshold",
    "table.regions": "Regions",
    "table.ano_unet": "Ano-Unet (s)",
    "table.anogan": "AnoGAN (s)",
    "download.overlay": "Overlay (PNG)",
    "download.normalised": "Normalised (PNG)",
    "download.map": "Shown map (NPY)",
    "download.regions": "Regions (CSV)",
    "download.zip": "All files (ZIP)",
    "anogan.searching": "AnoGAN is searching …",
    "anogan.title": "Compare with AnoGAN",
    "anogan.toggle": "Compare with AnoGAN",
    "anogan.toggle_help": "AnoGAN searches for the nearest normal image that it can draw. It takes about a "
    "hundred times as long as instant mode; nothing waits for it.",
    "anogan.start": "Compare with AnoGAN: {n} images, about {time}",
    "anogan.search": "AnoGAN for {n} image(s)",
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
    "job.training_instant": "Training",
    "job.storing": "Storing your images",
    "job.features": "Features of normal images",
    "job.local": "Local centres",
    "job.scale": "Measuring the scales of maps on normal images",
    "job.ano_unet": "Ano-Unet",
    "job.refining": "Refining",
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
    "chart.normal_patches": "normal patches",
    "chart.centres": "centres",
    "chart.moves": "moved by G",
    "chart.before": "abnormal, before G",
    "chart.after": "after G",
    "chart.distance": "Distance d of a patch (standard deviations)",
    "chart.share": "Held-back patches (%)",
    "chart.tau": "τ = {value}",
    "chart.direction": "Direction {n} ({share} of the variance)",
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
    "alt.patch_histogram": "Histogram of held-back normal patches’ distances, with τ",
    "alt.projection": "Normal patches, centres, and a test image’s patches before and after G, in a plane",
    "alt.distances": "Distances of a normal image’s patches from their centres",
    "alt.groups": "Scores of test images by kind, with the threshold",
    # --- errors ---
    "error.memory": "There was not enough memory for this: use fewer or smaller images, or a smaller batch.",
    "error.disk": "A file could not be read or written ({reason}): check the disk and the folder’s "
    "permissions.",
    "error.unexpected": "Something unexpected went wrong ({kind}); the terminal has the details. Try again.",
}

ENGLISH_LABELS: dict[str, str] = {
    "instant": "Instant",
    "fast": "Fast",
    "fast-local": "Fast (local C)",
    "article": "Article",
    "c.global": "Global (article)",
    "c.local": "Local",
    "part.global": "Global C (article)",
    "part.local": "Local centres",
    "part.instant": "Instant mode",
    "map.combined": "Combined (distance × √residual)",
    "map.residual": "abs(x − y), the article’s",
    "map.distance": "Distance d",
    "map.gain": "Gain",
    "map.change": "Feature change",
    "map.product": "Distance × change",
    "threshold.limit": "99.9 %",
    "threshold.scale": "99.5 %",
    "threshold.off": "Off",
    "metric.spread": "each centre has its own, for every feature",
    "metric.euclidean": "one for all (plain distance)",
    "instant.steps": "Steps",
    "instant.batch": "Batch",
    "instant.learning_rate": "Learning rate",
    "instant.width": "Width (channels)",
    "instant.depth": "Levels",
    "instant.keep": "λ keep: leave what is normal",
    "instant.beta": "β: L_C everywhere",
    "instant.beta_foreign": "β in: L_C where it was foreign",
    "instant.margin": "Margin: quantile of τ′",
    "instant.image": "λ image: repair to the pixel",
    "instant.features": "λ features: repair for F",
    "instant.gate": "λ gate: where to redraw",
    "instant.seed": "Seed",
    "L_C foreign": "L_C, foreign",
    "repair": "Repair",
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
