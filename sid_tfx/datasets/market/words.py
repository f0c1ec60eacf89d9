"""The vocabulary of the simulated market: its category tree, styles, promotions and names."""

# A middle category is "# Root > Middle = usual price in dollars = where people look next", a leaf
# is "Leaf: products; selling points".
TREE = """
# Fashion > Shoes = 90 = Bags & Accessories, Sportswear
Sneakers: low-top sneaker, court sneaker, platform sneaker; cushioned insole, leather upper, grippy sole
Boots: ankle boot, Chelsea boot, winter boot; waterproof membrane, warm lining, welted sole
Sandals: slide sandal, strappy sandal, cork sandal; soft footbed, quick-dry straps, arch support
Dress Shoes: oxford shoe, loafer, block heel; polished calfskin, padded heel, resoleable build
# Fashion > Clothing = 60 = Shoes, Jewellery & Watches
Jeans: straight jeans, slim jeans, wide-leg jeans; stretch denim, high rise, deep pockets
Dresses: midi dress, wrap dress, shirt dress; flowing viscose, side pockets, crease-free fabric
Jackets: rain jacket, denim jacket, quilted jacket; taped seams, packable hood, recycled filling
Knitwear: merino sweater, cable cardigan, roll-neck jumper; fine merino, no-itch yarn, ribbed cuffs
# Fashion > Bags & Accessories = 95 = Luggage, Jewellery & Watches
Backpacks: city backpack, roll-top backpack, laptop backpack; padded sleeve, hidden pocket, water-repellent canvas
Handbags: tote bag, crossbody bag, bucket bag; full-grain leather, detachable strap, magnetic clasp
Sunglasses: aviator sunglasses, round sunglasses, wayfarer; polarised lenses, scratch-proof coating, spring hinges
# Fashion > Jewellery & Watches = 140 = Clothing, Skin Care
Watches: automatic watch, field watch, dress watch; sapphire glass, five-year movement, quick-change strap
Necklaces: pendant necklace, layered chain, pearl necklace; recycled gold, hand-set stones, tarnish-free finish
Earrings: hoop earrings, stud earrings, drop earrings; hypoallergenic posts, featherlight hoops, lifetime plating
# Sports > Sportswear = 45 = Running, Fitness
Leggings: training leggings, yoga leggings, running tights; squat-proof fabric, phone pocket, four-way stretch
Base Layers: thermal top, merino base layer, compression shirt; odour control, flat seams, sweat-wicking knit
Sports Bras: high-impact bra, medium-support bra, racerback bra; adjustable back, removable pads, soft band
# Sports > Running = 60 = Sportswear, Wearables
Running Shoes: trail runner, road runner, racing shoe; carbon plate, wide toe box, breathable mesh
Hydration: running vest, soft flask, handheld bottle; bounce-free fit, leak-proof valve, reflective trim
Running Socks: cushioned sock, toe sock, compression sock; blister guard, seamless toe, arch band
# Sports > Fitness = 120 = Nutrition, Sportswear
Dumbbells: adjustable dumbbell, hex dumbbell, kettlebell; one-click weight change, rubber coating, compact stand
Yoga Mats: cork yoga mat, travel mat, extra-thick mat; non-slip surface, alignment lines, natural rubber
Home Cardio: folding treadmill, rowing machine, spin bike; whisper-quiet motor, app training, small footprint
# Sports > Camping = 110 = Luggage, Running
Tents: two-person tent, family tent, trekking tent; five-minute setup, storm-proof poles, blackout cabin
Sleeping Bags: down sleeping bag, summer bag, mummy bag; three-season comfort, pack size of a bottle, warm footbox
Camp Kitchen: gas stove, titanium pot, camp grill; wind-proof burner, nesting pans, fast boil
# Electronics > Phones & Tablets = 450 = Audio, Phone Accessories
Smartphones: 5G smartphone, compact phone, camera phone; all-day battery, bright display, seven years of updates
Tablets: drawing tablet, family tablet, e-reader; paper-like screen, stylus included, kids profile
# Electronics > Phone Accessories = 28 = Wearables, Audio
Phone Cases: clear case, leather case, rugged case; drop protection, magnetic ring, raised camera edge
Chargers: wall charger, power bank, wireless charger; 65 watt fast charging, pocket size, three ports
Screen Protectors: tempered glass, privacy glass, matte film; bubble-free mounting, edge-to-edge cover, anti-glare coating
# Electronics > Audio = 120 = Wearables, Games
Headphones: over-ear headphones, studio headphones, travel headphones; noise cancelling, 40-hour battery, folding case
Earbuds: wireless earbuds, sport earbuds, open earbuds; secure fit, clear calls, case with USB-C
Speakers: bluetooth speaker, soundbar, shelf speaker; deep bass, stereo pairing, splash-proof shell
# Electronics > Wearables = 160 = Running, Phone Accessories
Smartwatches: smartwatch, GPS watch, hybrid watch; heart-rate tracking, offline maps, week-long battery
Fitness Trackers: fitness band, sleep ring, activity tracker; sleep score, swim-proof case, no subscription
# Electronics > Computers = 600 = Phone Accessories, Games
Laptops: ultrabook, gaming laptop, two-in-one laptop; silent cooling, featherlight body, upgradeable memory
Monitors: 4K monitor, ultrawide monitor, portable monitor; colour-true panel, USB-C docking, height-adjustable stand
Keyboards: mechanical keyboard, compact keyboard, split keyboard; hot-swap switches, quiet keys, tri-device pairing
# Home > Kitchen = 110 = Coffee & Tea, Groceries
Cookware: cast-iron pan, non-stick frying pan, saucepan set; even heat, oven-safe handle, PFAS-free coating
Knives: chef knife, santoku knife, bread knife; hand-sharpened edge, Damascus steel, walnut handle
Coffee Machines: espresso machine, filter machine, pod machine; built-in grinder, ten-second heat-up, milk frother
Small Appliances: air fryer, stand mixer, hand blender; dishwasher-safe parts, family-size basket, quiet motor
# Home > Bedroom = 150 = Living Room, Supplements
Mattresses: foam mattress, spring mattress, hybrid mattress; 100-night trial, cooling cover, zoned support
Bedding: linen duvet set, cotton sheets, percale bedding; softer with every wash, organic cotton, button closure
Pillows: memory foam pillow, down pillow, side-sleeper pillow; adjustable height, washable cover, neck support
# Home > Living Room = 260 = Bedroom, Garden
Sofas: corner sofa, sofa bed, two-seat sofa; stain-proof fabric, tool-free assembly, deep seat
Lamps: floor lamp, table lamp, reading lamp; warm dimmable light, brass finish, cordless battery
Rugs: wool rug, washable rug, jute rug; hand-woven pile, machine-washable cover, anti-slip backing
# Home > Garden = 130 = Kitchen, Dogs
Plants: olive tree, herb set, indoor fern; delivered in bloom, easy-care guide, peat-free soil
Garden Tools: cordless mower, hedge trimmer, garden hose; one battery for all tools, kink-free hose, low noise
Grills: gas grill, charcoal grill, pellet grill; even searing zone, folding side tables, easy-clean tray
# Beauty > Skin Care = 26 = Make-up, Supplements
Moisturisers: day cream, night cream, gel moisturiser; hyaluronic acid, fragrance-free formula, 48-hour moisture
Serums: vitamin C serum, retinol serum, niacinamide serum; visible glow in two weeks, airless pump, gentle on skin
Sun Care: sunscreen SPF 50, tinted sun fluid, sun stick; no white cast, reef-friendly filters, water-resistant film
Cleansers: foam cleanser, oil cleanser, micellar water; removes make-up, soap-free base, soothing oat
# Beauty > Hair Care = 30 = Skin Care, Fragrance
Shampoos: volume shampoo, repair shampoo, solid shampoo; sulphate-free foam, salon shine, silicone-free care
Styling Tools: hair dryer, curling iron, straightener; ionic shine, heat protection, five attachments
Hair Treatments: hair oil, hair mask, scalp serum; split-end repair, argan oil, overnight care
# Beauty > Make-up = 18 = Skin Care, Jewellery & Watches
Lipsticks: matte lipstick, lip gloss, lip tint; twelve-hour colour, shea butter, click-shut case
Foundations: skin tint, liquid foundation, concealer; forty shades, breathable cover, satin finish
Mascaras: volume mascara, tubing mascara, brow gel; no smudge, lifted curl, conditioning oils
# Beauty > Fragrance = 48 = Make-up, Jewellery & Watches
Perfumes: eau de parfum, citrus cologne, oud perfume; long-lasting trail, refillable bottle, French perfumery
Home Scents: scented candle, reed diffuser, room spray; fifty-hour burn, essential oils, soy wax
# Food > Coffee & Tea = 16 = Kitchen, Snacks
Coffee Beans: espresso beans, filter roast, decaf beans; roasted to order, single origin, direct trade
Teas: green tea, herbal tea, matcha; hand-picked leaves, plastic-free bags, ceremonial grade
# Food > Groceries = 32 = Kitchen, Snacks
Meal Kits: vegetarian meal kit, family meal kit, quick-cook box; ready in 25 minutes, seasonal recipes, skip any week
Olive Oils: extra virgin olive oil, chilli oil, truffle oil; cold-pressed harvest, peppery finish, dark glass tin
Organic Boxes: vegetable box, fruit box, farm box; grown nearby, doorstep delivery, zero plastic
# Food > Snacks = 9 = Coffee & Tea, Streaming
Chocolate: dark chocolate, praline box, milk chocolate; stone-ground cocoa, fair-trade beans, gift box
Nuts & Bars: almond mix, protein bar, granola bar; no added sugar, slow roasted, lunchbox size
# Health > Nutrition = 28 = Fitness, Supplements
Protein Powders: whey protein, vegan protein, clear whey; 24 grams per serving, dissolves instantly, no aftertaste
Energy Gels: energy gel, electrolyte tablet, recovery drink; easy on the stomach, race tested, caffeine option
# Health > Supplements = 22 = Nutrition, Skin Care
Vitamins: vitamin D drops, multivitamin, magnesium capsules; lab tested, one a day, vegan capsules
Sleep Aids: herbal sleep tea, melatonin spray, weighted blanket; fall asleep faster, no grogginess, breathable cover
# Travel > Hotels = 140 = Flights & Trains, Luggage
City Hotels: boutique hotel, city apartment, design hostel; free cancellation, rooftop breakfast, steps from the old town
Beach Resorts: beach resort, island villa, family resort; all-inclusive pool, kids eat free, sunset terrace
Wellness Hotels: spa hotel, mountain lodge, yoga retreat; sauna with a view, late check-out, massage included
# Travel > Flights & Trains = 120 = Hotels, Luggage
Flights: weekend flight, long-haul flight, last-minute flight; no hidden fees, seat included, flexible dates
Rail Passes: night train, rail pass, high-speed train ticket; city centre to city centre, free seat choice, low carbon
# Travel > Luggage = 70 = Flights & Trains, Bags & Accessories
Suitcases: cabin suitcase, check-in suitcase, expandable trolley; lifetime warranty, silent wheels, TSA lock
Travel Accessories: packing cubes, neck pillow, travel adapter; fits every socket, compression zips, machine washable
# Pets > Dogs = 38 = Cats, Garden
Dog Food: grain-free dog food, puppy food, fresh dog meals; vet approved, real chicken, gentle digestion
Dog Gear: dog harness, dog bed, dog raincoat; no-pull fit, washable cover, reflective stitching
# Pets > Cats = 34 = Dogs, Living Room
Cat Food: wet cat food, kitten food, indoor cat food; high meat content, picky-eater tested, portion packs
Cat Trees: cat tree, window perch, scratching post; sturdy base, sisal rope, easy assembly
# Family > Baby = 90 = Toys, Bedroom
Strollers: travel stroller, jogging stroller, twin stroller; one-hand fold, fits cabin luggage, all-terrain wheels
Baby Care: nappy subscription, baby lotion, bath set; dermatologist tested, plant-based core, cancel anytime
# Family > Toys = 30 = Games, Baby
Building Sets: marble run, wooden blocks, robot kit; ages four and up, endless builds, made from beech
Puzzles & Board Games: family board game, jigsaw puzzle, card game; ready in five minutes, plays in half an hour, award winner
# Digital > Games = 25 = Streaming, Computers
Mobile Games: puzzle game, strategy game, racing game; free to play, new levels weekly, offline mode
Console Games: open-world adventure, football game, co-op game; split-screen mode, season pass included, cross-play
# Digital > Streaming = 11 = Audio, Snacks
Video Streaming: film subscription, documentary channel, sports stream; first month free, four screens, no contract
Audiobooks: audiobook club, podcast app, sleep stories; keep every title, new releases daily, listen offline
# Digital > Learning = 65 = Computers, Streaming
Language Courses: Spanish course, business English course, Japanese app; fifteen minutes a day, speak from day one, live teachers
Coding Courses: Python course, web design course, data course; real projects, mentor feedback, certificate included
"""  # noqa: E501

AUDIENCES = {
    "Fashion": ("Women", "Men"),
    "Sports": ("Women", "Men"),
    "Beauty": ("Women", "Men"),
    "Family": ("Boys", "Girls"),
}
"""Roots whose paths have a fourth level, the audience."""

STYLES = {
    "sustainable": ("sustainable recycled eco-friendly", "Made to last, kind to the planet."),
    "premium": (
        "luxury handcrafted premium",
        "Crafted in small batches by masters.",
    ),
    "budget": ("affordable everyday value", "Good quality does not have to cost the earth."),
    "minimal": ("minimalist slim essential", "Nothing you don't need, everything you do."),
    "classic": ("classic heritage timeless", "A design that has stood the test of generations."),
    "smart": ("smart connected advanced", "Engineered with the latest technology."),
    "family": ("family-friendly safe gentle", "Trusted by more than 100,000 families."),
    "bold": ("bold vibrant limited-edition", "Stand out from the crowd this season."),
}
"""Style -> adjectives, and the sentence its ads close with."""

PROMOTIONS = (
    "20% off this week", "free shipping", "buy one, get one half price", "only until Sunday",
    "new customers save $10", "30-day free returns", "final sale, up to 50% off",
    "free trial", "limited stock", "pay later at no cost", "new arrival", "gift included",
)  # fmt: skip

OPENINGS = (
    "Still searching for the right {noun}?", "Meet the {adjective} {noun} everyone talks about.",
    "New in: our {adjective} {noun}.", "Upgrade your day with our {adjective} {noun}.",
    "Why settle for less?", "The {noun} you will reach for every day.",
    "Thousands of five-star reviews can't be wrong.", "Finally, {noun} done right.",
)  # fmt: skip

CALLS = (
    "Order today.", "Shop the collection now.", "Discover more online.", "Try it risk-free.",
    "Get yours before it's gone.", "See all colours and sizes.", "Book now and save.",
    "Join today.",
)  # fmt: skip

TITLES = (
    "{Advertiser} {adjective} {noun} - {feature}", "{Noun} by {Advertiser}: {feature}, {promotion}",
    "{Adjective} {noun} | {Advertiser}", "{Promotion}: {Advertiser} {noun}, {feature}",
    "{Advertiser} {noun}: {feature} and {other}", "{Adjective} {noun}, {promotion} at {Advertiser}",
)  # fmt: skip

NAME_STARTS = (
    "North", "Lum", "Ver", "Oak", "Sol", "Brisk", "Cove", "Aster", "Kin", "Mara", "Fjord", "Pel",
    "Juni", "Tern", "Wild", "Nova", "Elm", "Haven", "Rook", "Cedar", "Orla", "Zeph", "Bram", "Lark",
)  # fmt: skip
NAME_ENDS = (
    "peak", "ora", "dant", "field", "ette", "well", "line", "wick", "berg", "io", "stone", "ova",
    "ridge", "more", "by", "craft", "ley", "and", "est", "una",
)  # fmt: skip
NAME_KINDS = ("", "", "", "& Co.", "Studio", "Works", "Brothers", "Lab")
