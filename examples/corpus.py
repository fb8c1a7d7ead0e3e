"""Sentences to search in: fifteen topics, fourteen sentences each."""

from __future__ import annotations

TOPICS: dict[str, str] = {
    "astronomy": """
The Moon always shows the same face to the Earth because its rotation is locked to its orbit.
A light year is the distance light travels in one year, about nine and a half trillion kilometres.
Saturn's rings consist mostly of water ice, in pieces from grains of dust to boulders the size of a house.
A total solar eclipse happens when the Moon covers the whole disc of the Sun.
Neutron stars are so dense that a teaspoon of their matter would weigh billions of tonnes.
The Milky Way will merge with the Andromeda galaxy in roughly four and a half billion years.
Venus is hotter than Mercury because its thick atmosphere traps heat.
Astronomers find planets around other stars by watching for the tiny dip in brightness during a transit.
The cosmic microwave background is the afterglow of the hot early universe.
Nothing that crosses the event horizon of a black hole can get back out, not even light.
Comets grow a tail of gas and dust when they come close enough to the Sun to warm up.
The James Webb telescope observes infrared light from a point far beyond the Moon.
Jupiter's Great Red Spot is a storm wider than our planet.
Meteor showers return every year when the Earth crosses the debris left by a comet.
""",
    "cooking": """
Let a steak rest for several minutes after frying so that the juices stay in the meat.
Salt the pasta water generously; it is the only chance to season the pasta itself.
Bread dough rises because yeast turns sugar into carbon dioxide.
To keep an omelette tender, cook it over gentle heat and take it off while the middle is still soft.
Roast vegetables in a single layer, or they will steam instead of turning brown.
A pinch of sugar takes the edge off a sharp tomato sauce.
Egg whites whip better in a clean metal bowl without a trace of fat.
Simmer the chicken bones with onion, carrot and celery for a clear stock.
Toast whole spices in a dry pan to bring out their aroma before grinding them.
Risotto turns creamy when hot broth is stirred in one ladle at a time.
Fold the batter only until the flour disappears, and the pancakes will stay fluffy.
Fresh basil should be torn by hand and added at the very end.
A sharp knife is safer in the kitchen than a dull one.
Soak dried beans overnight to shorten the time they need on the stove.
""",
    "health": """
Adults need between seven and nine hours of sleep a night.
Regular brisk walking lowers blood pressure and the risk of heart disease.
Antibiotics work against bacteria and do nothing against the viruses that cause a cold.
Wash your hands with soap for at least twenty seconds.
A vaccine trains the immune system to recognise a pathogen before it meets the real thing.
Too much screen light in the evening makes it harder to fall asleep.
Vitamin D helps the body absorb calcium and keeps bones strong.
A migraine often comes with nausea and a strong sensitivity to light.
Strength training becomes more important with age, because muscle mass declines.
Drink plenty of water when you have a fever.
Stretching after long hours at a desk eases tension in the neck and the lower back.
People with type 1 diabetes have to inject insulin because their pancreas makes too little of it.
Sunscreen protects the skin from the ultraviolet rays that cause burns and cancer.
Talking to a therapist can help with anxiety that will not go away.
""",
    "finance": """
Compound interest means that you earn interest on the interest of earlier years.
A diversified portfolio spreads the risk over many companies and countries.
Central banks raise interest rates to slow inflation down.
An index fund follows the whole market instead of trying to beat it.
Keep three to six months of living costs in a savings account for emergencies.
A mortgage with a fixed rate costs the same every month for years.
When bond yields go up, the prices of existing bonds fall.
Paying only the minimum on a credit card makes the debt last for decades.
The company announced a dividend of two dollars a share.
Shares tumbled after the retailer cut its forecast for the second time this year.
Income tax is progressive: higher earnings are taxed at a higher rate.
An accountant can tell you which business expenses are deductible.
The exchange rate decides how much a foreign holiday costs.
Start-ups often sell part of their ownership to venture capital funds to pay for growth.
""",
    "programming": """
A unit test checks one small piece of code in isolation.
Recursion is when a function calls itself on a smaller version of the problem.
Git keeps the history of a project as a graph of commits.
A hash table finds a key in constant time on average.
Race conditions appear when two threads change the same data without a lock.
Type hints in Python are checked by tools and ignored by the interpreter.
The garbage collector frees memory that no live object refers to any more.
An index makes a database query fast at the price of slower writes.
Always escape user input, or an attacker can inject SQL into the query.
Caching the result of an expensive call trades memory for speed.
Binary search halves the sorted range at every step.
A segmentation fault means that the program touched memory it does not own.
Code review catches mistakes that the author can no longer see.
An HTTP request with status 404 asked for a page that does not exist.
""",
    "machine learning": """
A neural network learns by following the gradient of its error downhill.
Overfitting means that a model memorises the training data and fails on new examples.
Attention lets every token of a sentence look at all of the others.
Convolutional networks share the same filter weights across the whole picture.
The learning rate decides how big a step the optimiser takes.
Word embeddings place words of similar meaning close together in a vector space.
Dropout switches off random units during training to make the network more robust.
A random forest averages the votes of many decision trees.
Quantisation stores weights in eight bits to make inference faster and smaller.
Reinforcement learning rewards an agent for the outcome of its actions.
A language model predicts the next token from the ones before it.
Cross validation estimates how well a classifier will do on unseen data.
Clustering groups similar points without using any labels.
Fine-tuning adapts a pretrained model to a narrower task with little data.
""",
    "history": """
The Roman Empire reached its greatest extent under the emperor Trajan.
The printing press made books affordable and spread ideas across Europe.
The Berlin Wall fell in November 1989 after weeks of peaceful protest.
Egyptian scribes wrote with reeds on sheets of papyrus.
The Black Death killed about a third of Europe's population in the fourteenth century.
Genghis Khan united the Mongol tribes and founded the largest contiguous empire.
The French Revolution began with the storming of the Bastille in 1789.
The Silk Road carried goods and religions between China and the Mediterranean.
Women in New Zealand gained the right to vote in 1893, before any other country.
The steam engine powered the factories of the Industrial Revolution.
Archaeologists found the tomb of Tutankhamun almost untouched in 1922.
The Treaty of Versailles ended the First World War and left Germany with heavy reparations.
Viking sailors reached North America centuries before Columbus.
The Great Wall was built over many dynasties to keep raiders from the north out.
""",
    "geography": """
The Nile flows north through eleven countries into the Mediterranean.
Mount Everest grows a few millimetres each year as two plates collide.
The Sahara is about as large as the United States.
Iceland lies on the ridge where the Eurasian and North American plates drift apart.
The Dead Sea is so salty that people float on it without swimming.
Canada has more lakes than the rest of the world together.
The Amazon rainforest spreads over nine countries of South America.
Tokyo is the largest metropolitan area on Earth.
Fjords are deep valleys carved by glaciers and filled by the sea.
Lake Baikal in Siberia holds a fifth of all unfrozen fresh water on the surface.
Monsoon winds bring heavy summer rain to India.
Istanbul lies on two continents, divided by the Bosphorus.
The Atacama in Chile is the driest desert that is not at a pole.
Australia is both a country and a continent.
""",
    "animals": """
Octopuses have three hearts and blue blood.
Bees tell each other where flowers are by dancing in the hive.
Emperor penguins huddle together to survive the Antarctic winter.
A cheetah can outrun every other land animal, but only for a short sprint.
Elephants mourn their dead and remember water holes for decades.
Bats find insects in the dark by listening to the echoes of their own calls.
Salmon swim back up the river in which they hatched to lay their eggs.
Cats purr when they are content, and sometimes when they are in pain.
Wolves hunt in packs led by a breeding pair.
A blue whale's heart is as big as a small car.
Crows can use tools and recognise human faces.
Puppies should be introduced to other dogs and people early in life.
Monarch butterflies migrate thousands of kilometres to spend the winter in Mexico.
Chameleons change colour to signal their mood rather than to hide.
""",
    "climate": """
Burning coal, oil and gas releases carbon dioxide that has been underground for millions of years.
Melting ice sheets raise the level of the sea.
Solar panels turn sunlight into electricity without any moving parts.
Methane traps much more heat than carbon dioxide but stays in the air for less time.
Wind turbines at sea run more hours of the year than those on land.
Planting trees takes carbon out of the atmosphere as long as the forest stands.
Coral reefs bleach when the water stays too warm for weeks.
Heat pumps warm a house with a third of the energy of a gas boiler.
Droughts and heat waves have become more frequent in southern Europe.
Large batteries store surplus solar power for the evening.
Permafrost that thaws lets out gases which speed up the warming.
The Paris Agreement aims to keep warming well below two degrees.
Cement production is responsible for about eight percent of emissions.
Insulating old buildings saves fuel and makes them more comfortable.
""",
    "sport": """
The striker scored twice in the last ten minutes and turned the match around.
A marathon is a little over forty-two kilometres long.
The tennis player saved three match points before winning in five sets.
Swimmers shave their bodies to reduce drag in the water.
The referee showed a red card after watching the foul again on video.
In basketball a shot from behind the arc counts three points.
Cyclists save a lot of energy by riding close behind each other.
The goalkeeper dived to the left and stopped the penalty.
She broke the world record in the high jump at the Olympic Games.
Chess clocks limit the time that each player may think.
The rookie quarterback threw four touchdown passes in his first game.
Climbers chalk their hands to get a better grip on the rock.
A triathlon combines swimming, cycling and running.
The coach changed the line-up after three defeats in a row.
""",
    "music": """
Beethoven wrote his ninth symphony when he was almost completely deaf.
A guitar has six strings, usually tuned from low E to high E.
Jazz musicians improvise over the chords of a song.
The conductor keeps the orchestra together and shapes the interpretation.
Vinyl records have outsold compact discs again in recent years.
A metronome helps beginners to keep a steady tempo.
The choir rehearses every Thursday evening in the old church.
An octave is the distance between one note and another of twice its frequency.
Hip-hop grew out of block parties in the Bronx in the seventies.
The violinist tightened her bow and tuned the A string.
Headphones with noise cancelling play the opposite of the sound outside.
The band sold out the stadium within an hour of announcing the tour.
Minor keys often sound sad to listeners raised on Western music.
A synthesiser builds sounds from oscillators, filters and envelopes.
""",
    "travel": """
Check that your passport is valid for at least six months after you return.
Night trains save the price of a hotel and arrive in the city centre.
Jet lag is worse when you fly east, because the day becomes shorter.
Pack liquids in bottles of no more than one hundred millilitres for cabin luggage.
The hostel offers free breakfast and bicycles for its guests.
Book tickets for the museum online, or you will queue for two hours.
In Japan it is polite to take off your shoes before entering a home.
The ferry to the island leaves twice a day in summer.
Travel insurance pays for the hospital and the flight home if you break a leg abroad.
Locals eat dinner after nine in the evening in Spain.
A rental car is the easiest way to explore the national parks.
The airline lost my suitcase and delivered it two days later.
Our guide led us through the old town and told us where to find the best street food.
Hiking in the Alps is best between July and September, when the huts are open.
""",
    "gardening": """
Tomatoes need at least six hours of direct sun and regular watering.
Prune apple trees in late winter while they are dormant.
Compost made from kitchen scraps improves the soil and saves fertiliser.
Slugs come out at night and eat young lettuce.
Water the roots in the morning rather than the leaves in the evening.
Lavender thrives in poor, dry soil and attracts bees.
Plant tulip bulbs in autumn, about three times as deep as they are high.
Mulch keeps weeds down and moisture in the ground.
Houseplants often die from too much water, not from too little.
Start pepper seeds indoors eight weeks before the last frost.
Cut roses just above a bud that faces outwards.
Crop rotation keeps diseases from building up in the vegetable bed.
Moss in the lawn is a sign of shade and compacted earth.
Basil and mint grow well in pots on a sunny windowsill.
""",
    "home repair": """
Turn the water off at the main valve before you replace a dripping tap.
A tripped circuit breaker usually means that a line is overloaded or shorted.
Fill small holes in the wall with plaster and sand them flat before painting.
Bleed the radiators in autumn if they gurgle and stay cold at the top.
A plunger clears most blocked drains without any chemicals.
Find the stud behind the drywall before you hang a heavy shelf.
Squeaky door hinges fall silent with a drop of oil.
Apply two thin coats of paint rather than one thick one.
Replace the batteries in the smoke detectors once a year.
Mould in the bathroom comes from damp air that cannot get out.
Clean the gutters before winter so that meltwater can run off.
Measure twice before you cut the board.
Old window frames leak less heat with a new rubber seal.
Wear safety glasses when you drill into concrete.
""",
}


def sentences() -> list[tuple[str, str]]:
    """Every sentence with its topic: (topic, sentence)."""
    return [(topic, line) for topic, text in TOPICS.items() for line in text.strip().splitlines()]
